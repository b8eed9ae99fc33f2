"""Structural names of the feature store: entities, views, services, derived columns. Constants only."""

USER = "user"
ITEM = "item"

USER_ID = "user_id"
ITEM_ID = "item_id"
OWN_ITEM_ID = "own_item_id"
"""A column of the prepared items and of a bundle's: ids as callers have them, where those are text."""
EVENT_TIMESTAMP = "event_timestamp"

USER_PROFILE = "user_profile"
USER_ACTIVITY = "user_activity"
ITEM_CATALOG = "item_catalog"
ITEM_ACTIVITY = "item_activity"
USER_VIEWS = (USER_PROFILE, USER_ACTIVITY)
ITEM_VIEWS = (ITEM_CATALOG, ITEM_ACTIVITY)
VIEWS = USER_VIEWS + ITEM_VIEWS
FACTS = (USER_PROFILE, ITEM_CATALOG)
"""Views whose rows have no time of their own; events make those of the others, whatever ids they name."""

USER_SERVICE = "user_features"
ITEM_SERVICE = "item_features"

USER_RECENT_ITEM_IDS = "user_recent_item_ids"
USER_RECENT_POSITIVE_ITEM_IDS = "user_recent_positive_item_ids"
USER_EVENT_COUNT = "user_event_count"
ITEM_EVENT_COUNT = "item_event_count"
IS_AVAILABLE = "item_is_available"


RESERVED = ("user_vector", "item_vector", "user_categorical", "user_numeric")
"""Names that the chain and the models give to what is no column."""
COMPARED = {USER_RECENT_ITEM_IDS: "recent", USER_RECENT_POSITIVE_ITEM_IDS: "positive"}
"""The lists of a user's items that candidates are compared with, and what the matches are called."""


def matches_of(column: str, recent: str) -> str:
    """Names the matches of an item column with one of the user's lists, such as `user_item_tag_recent`."""
    return f"user_{column if column != ITEM_ID else ITEM}_{COMPARED[recent]}"


def rate_of(entity: str, label: str) -> str:
    """Names the smoothed rate of a label per user or item, such as `item_is_click_rate`."""
    return f"{entity}_{label}_rate"


NULL_INT = -(2**63)
"""Null in an int64 column, and padding in an int64 list, once read into numpy.

Null floats are NaN, null strings None.
"""
