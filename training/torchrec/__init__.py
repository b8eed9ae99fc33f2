"""The second trainer: the two towers on TorchRec, in one process or in several, with tables cut among them.

It runs in the role torch. `python -m training.torchrec fit FOLDER` takes a `FittingTask`
(training/retrieval/task.py) and leaves the towers as ONNX; training/retrieval/torchrec.py asks for it.
"""
