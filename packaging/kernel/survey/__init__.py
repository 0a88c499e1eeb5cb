"""Survey the request_module() calls of a kernel's sources: the names they request, and the capability they declare."""
