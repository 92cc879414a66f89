//! The tables: their creation, names, settings and format, and the check at connect.

mod format;
mod migrations;
mod schema_check;
mod settings;
mod table_names;
