"""Tables: `spec` says which experiments a paper's table needs, `aggregate` fills it, `render` writes it."""
