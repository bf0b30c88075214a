"""Tables: `spec` describes a table, `runs` reads runs, `aggregate` fills the table, `render` writes it."""
