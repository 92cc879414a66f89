//! Lock names that are computed from a template and the arguments of a call.

use std::fmt::{Display, Write};

use crate::{
    error::{LockError, Result},
    name::LockName,
};

/// A part of a template: a text, or a placeholder with its value.
#[derive(Clone, Copy)]
pub struct Part<'a>(Content<'a>);

#[derive(Clone, Copy)]
enum Content<'a> {
    Text(&'static str),
    Placeholder {
        /// The placeholder as the template has it: `<argument>`.
        written: &'static str,
        value: &'a dyn Display,
    },
}

/// A text that is copied into the name.
pub fn text(text: &'static str) -> Part<'static> {
    Part(Content::Text(text))
}

/// A placeholder, as `written` in the template, that is replaced by `value`.
pub fn value<'a, T: Display>(written: &'static str, value: &'a T) -> Part<'a> {
    Part(Content::Placeholder { written, value })
}

/// Joins `parts` to a lock name.
///
/// If a value displays as an empty text, the name is refused, because `app_task_` alone is
/// not the lock of any task. The error shows the placeholder instead of the empty value.
pub fn name(parts: &[Part<'_>]) -> Result<LockName> {
    let mut name = String::new();
    let mut is_complete = true;
    for part in parts {
        match part.0 {
            Content::Text(text) => name.push_str(text),
            Content::Placeholder { written, value } => {
                let start = name.len();
                if write!(name, "{value}").is_err() || name.len() == start {
                    is_complete = false;
                    name.truncate(start);
                    name.push_str(written);
                }
            }
        }
    }
    if is_complete {
        return LockName::new(name);
    }
    Err(LockError::InvalidName {
        name: name.into(),
        reason: "the value of the placeholder is empty",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined() {
        let id = 42;
        let joined = name(&[text("app_"), value("<id>", &id), text("_x")]).unwrap();
        assert_eq!(joined.as_str(), "app_42_x");
    }

    #[test]
    fn empty_value_is_refused_at_every_position() {
        let (empty, full) = ("", "x");
        for (parts, shown) in [
            ([text("app_"), value("<a.b>", &empty)], "app_<a.b>"),
            ([value("<a.b>", &empty), text("_app")], "<a.b>_app"),
            ([value("<c>", &full), value("<a.b>", &empty)], "x<a.b>"),
        ] {
            match name(&parts) {
                Err(LockError::InvalidName { name, .. }) => assert_eq!(&*name, shown),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn value_that_breaks_the_rules_of_lock_names_is_refused() {
        for bad in ["a*", "a\n", "a "] {
            let refused = name(&[text("app_"), value("<a>", &bad)]);
            assert!(refused.is_err(), "{bad:?}");
        }
    }
}
