"""All that is about models in browsers."""
