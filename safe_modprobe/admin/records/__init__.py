"""What was recorded: the journal, its history, suggestions and metrics."""
