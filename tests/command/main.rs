//! The command `locks`, as a program.

mod inspect;
mod matrix;
mod migrate;
mod run;
mod support;
