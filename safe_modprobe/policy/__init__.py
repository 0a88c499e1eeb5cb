"""Floor 1, pure: the policy language. Order of files, text -> rows, rows -> answer, rows -> text."""
