//! The tables: their creation, names, settings and format, and the check at connect.

mod documentation;
mod format;
mod migrations;
mod schema_check;
mod settings;
mod table_names;
