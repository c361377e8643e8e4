"""All that is about SavedModels."""
