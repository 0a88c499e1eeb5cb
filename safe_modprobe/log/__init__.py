"""What the helper records about a request, and where."""
