"""Tables: `spec` describes a table, `runs` reads runs, `predictions` scores files, `aggregate` fills the table, `render` writes it."""
