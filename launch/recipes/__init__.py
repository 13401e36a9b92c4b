"""The former place of `t2t.recipes`: code that users wrote, and that runs keep, imports recipes from here."""

from t2t.api.recipes import *  # noqa: F403
