"""The default ranker: Merlin's DLRM on everything known of user, item, context and of the two together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import merlin.models.tf as mm
import onnx
import tensorflow as tf
from merlin.models.tf.blocks.dlrm import DLRMBlock
from merlin.models.tf.blocks.mlp import _Dense

from contract.bundle import RankerSpec
from contract.encoders import Field
from training.examples.ranking import RankingExamples
from training.examples.safe_names import safe_fields
from training.ranking.columns import embeddings, merlin_schema
from training.ranking.config import DlrmConfig
from training.ranking.fit import fit_ranker
from training.ranking.graph import ranker_graph
from training.ranking.neural import CANDIDATE, TARGET, Network, NeuralRanker
from training.ranking.weights import DlrmWeights, Layer


@dataclass(frozen=True, eq=False)
class DlrmNetwork(Network):
    """One DLRM, its parts within reach, so that it can be served otherwise; `bottom` is None without
    numerics."""

    embeddings: mm.ParallelBlock
    bottom: mm.SequentialBlock | None
    top: mm.SequentialBlock
    heads: Mapping[str, tf.keras.layers.Dense]

    def weights(self, head: str) -> DlrmWeights:
        """Copies the weights behind one head; the model must have run once."""
        return DlrmWeights(
            tables={
                name: layer.table.embeddings.numpy()
                for layer in self.embeddings.layers
                for name in layer.features
            },
            bottom=_layers(self.bottom) if self.bottom is not None else (),
            top=_layers(self.top),
            head=_layer(self.heads[head]),
        )


@dataclass(frozen=True, eq=False)
class Dlrm(NeuralRanker):
    """A trained DLRM, a `RankingModel`."""

    name = "DLRM"
    members: tuple[DlrmNetwork, ...]

    def candidate_weights(self) -> tuple[tuple[DlrmWeights, ...], float]:
        """Gives the members' weights, and what is added to their mean logit, behind `candidate_model`."""
        if not self.is_trained_on_candidates:
            return tuple(member.weights(TARGET) for member in self.members), 0.0
        return tuple(member.weights(CANDIDATE) for member in self.members), self.candidate_offset

    def to_onnx(self, spec: RankerSpec) -> onnx.ModelProto:
        """Builds the graph behind `candidate_model`, the user's half apart from the candidates'."""
        return ranker_graph(spec, *self.candidate_weights())


def fit_dlrm(examples: RankingExamples, seed: int = 0, config: DlrmConfig | None = None) -> Dlrm:
    """Trains the DLRM.

    Source: Naumov et al. 2019, section 2; Merlin's DLRMBlock.
    """
    return fit_ranker(Dlrm, build_network, examples, seed, config or DlrmConfig())


def build_network(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DlrmConfig
) -> DlrmNetwork:
    """Builds Merlin's DLRM: an embedding per categorical, a masked mean per list, an MLP over the numerics,
    the dot products of all pairs, an MLP over these, and linear heads that each give a logit.
    """
    known = [*safe_fields({name: fields[name] for name in features}).values()]
    tables = embeddings(known, config.width, config.l2 / config.batch_size)
    has_numerics = any(field.kind == "numeric" for field in known)
    bottom = mm.MLPBlock([*config.bottom, config.width], no_activation_last_layer=True)
    top = mm.MLPBlock(list(config.top), dropout=config.dropout)
    body = DLRMBlock(merlin_schema(known), embeddings=tables, bottom_block=bottom, top_block=top)
    logits = {head: tf.keras.layers.Dense(1) for head in heads}
    outputs = {head: mm.BinaryOutput(target=head, to_call=logits[head], name=head) for head in heads}
    model = mm.Model(body, mm.ParallelBlock(outputs))
    return DlrmNetwork(model, tables, bottom if has_numerics else None, top, logits)


def _layers(block: mm.SequentialBlock) -> tuple[Layer, ...]:
    return tuple(_layer(layer.dense) for layer in block.layers if isinstance(layer, _Dense))


def _layer(dense: tf.keras.layers.Dense) -> Layer:
    return Layer(dense.kernel.numpy(), dense.bias.numpy())
