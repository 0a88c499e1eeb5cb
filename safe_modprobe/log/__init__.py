"""What is recorded about a request, and where."""
