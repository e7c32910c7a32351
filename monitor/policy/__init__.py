"""Policies: the file a person writes (model), the plan a request carries (plan), loading (store)."""
