"""Former location of `t2t.recipes`. User code, also the code that runs keep, imports recipes from here."""

from t2t.api.recipes import *  # noqa: F403
