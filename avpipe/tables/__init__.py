"""Tables: `spec` describes a table, `runs` reads runs, `predictions` scores those made
elsewhere, `aggregate` fills the table, `render` writes it."""
