"""Models made larger or smaller: taken apart into a `reshapes.Body`, looked at, put together again, and tried where nothing should have changed."""
