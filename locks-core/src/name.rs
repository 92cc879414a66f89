//! Names of locks, namespaces and tasks, and their rules.

use std::{borrow::Borrow, borrow::Cow, fmt, rc::Rc, sync::Arc};

use crate::error::{LockError, Result};

/// The maximum length of a lock name or task id, in bytes.
const MAX_NAME_LEN: usize = 255;
/// The maximum length of a namespace, in bytes.
const MAX_NAMESPACE_LEN: usize = 64;

/// The name of a lock: 1–255 bytes without control characters, without `*`, and without
/// white space at either end.
///
/// Names are compared byte by byte. `app_1` and `APP_1` are different locks on every engine,
/// with every collation.
///
/// # Examples
///
/// ```
/// use locks_core::LockName;
///
/// let name = LockName::new("app_task_42")?;
/// assert_eq!(name.as_str(), "app_task_42");
/// assert!(LockName::new("app_task_*").is_err());
/// # Ok::<(), locks_core::LockError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

impl LockName {
    /// Checks `name` and returns it as a lock name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidName`] if `name` breaks a rule of lock names.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The name as a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that was read from the row. It is not checked: the original platform checks no
    /// names, and an invalid name that it holds still excludes other locks.
    pub(crate) fn found(name: Arc<str>) -> Self {
        Self(name)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for LockName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for LockName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

/// The rule that a lock name or task id breaks, if any.
fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > MAX_NAME_LEN {
        Some("it is longer than 255 bytes")
    } else if name.chars().any(char::is_control) {
        Some("it contains a control character")
    } else if name.contains('*') {
        Some("it contains `*`, which is allowed only in patterns of a conflict matrix")
    } else if name.trim() != name {
        Some("it starts or ends with white space")
    } else {
        None
    }
}

fn check(name: &str) -> Result<()> {
    match broken_rule(name) {
        None => Ok(()),
        Some(reason) => Err(LockError::InvalidName {
            name: name.into(),
            reason,
        }),
    }
}

/// Checks a task id. The rules are those of lock names.
pub(crate) fn task_id(id: &str) -> Result<Arc<str>> {
    match broken_rule(id) {
        None => Ok(id.into()),
        Some(reason) => Err(LockError::InvalidConfig {
            what: "task id",
            reason: format!("{id:?}: {reason}").into(),
        }),
    }
}

/// Checks a namespace. It is a primary key, so only characters are allowed that every
/// collation distinguishes.
pub(crate) fn namespace(name: &str) -> Result<Arc<str>> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAMESPACE_LEN {
        "it is longer than 64 bytes"
    } else if !name.bytes().all(allowed) {
        "it may contain only a-z, 0-9, `.`, `_` and `-`"
    } else {
        return Ok(name.into());
    };
    Err(LockError::InvalidConfig {
        what: "namespace",
        reason: format!("{name:?}: {reason}").into(),
    })
}

/// One lock name or several: the argument of
/// [`LockManager::acquire`](crate::LockManager::acquire) and
/// [`LockManager::wait`](crate::LockManager::wait).
///
/// Several names are granted together or not at all. A name that is repeated counts once. An
/// empty list is [`LockError::InvalidName`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name locks",
    label = "neither a lock name nor a list of lock names",
    note = "pass a `&str`, a `String`, a `LockName`, or an array, slice or `Vec` of these"
)]
pub trait IntoLockNames: sealed::Names {}

impl<T: sealed::Names + ?Sized> IntoLockNames for T {}

pub(crate) mod sealed {
    use super::{LockName, Result};

    pub trait Name {
        fn to_name(&self) -> Result<LockName>;
    }

    pub trait Names {
        fn to_names(&self) -> Result<Vec<LockName>>;
    }
}

use sealed::{Name, Names};

/// The names of one request, sorted and without duplicates.
pub(crate) fn collect(names: &(impl Names + ?Sized)) -> Result<Arc<[LockName]>> {
    let mut names = names.to_names()?;
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(LockError::InvalidName {
            name: "".into(),
            reason: "a request must name at least one lock",
        });
    }
    Ok(names.into())
}

/// Implements both traits for a type that derefs to a text.
macro_rules! impl_names_for_text {
    ($($name:ty),+ $(,)?) => {$(
        impl Name for $name {
            fn to_name(&self) -> Result<LockName> {
                let text: &str = self.as_ref();
                LockName::new(text)
            }
        }
        impl Names for $name {
            fn to_names(&self) -> Result<Vec<LockName>> {
                self.to_name().map(|name| vec![name])
            }
        }
    )+};
}

impl_names_for_text!(str, String, Cow<'_, str>, Box<str>, Arc<str>, Rc<str>);

impl Name for LockName {
    fn to_name(&self) -> Result<LockName> {
        Ok(self.clone())
    }
}

impl Names for LockName {
    fn to_names(&self) -> Result<Vec<LockName>> {
        Ok(vec![self.clone()])
    }
}

impl<T: Name + ?Sized> Name for &T {
    fn to_name(&self) -> Result<LockName> {
        (**self).to_name()
    }
}

impl<T: Names + ?Sized> Names for &T {
    fn to_names(&self) -> Result<Vec<LockName>> {
        (**self).to_names()
    }
}

impl<T: Name> Names for [T] {
    fn to_names(&self) -> Result<Vec<LockName>> {
        self.iter().map(Name::to_name).collect()
    }
}

impl<T: Name, const N: usize> Names for [T; N] {
    fn to_names(&self) -> Result<Vec<LockName>> {
        self.as_slice().to_names()
    }
}

impl<T: Name> Names for Vec<T> {
    fn to_names(&self) -> Result<Vec<LockName>> {
        self.as_slice().to_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_lock_names_are_refused() {
        let long = "x".repeat(256);
        for name in ["", " a", "a ", "a\n", "a\u{7f}b", "app_*", &long] {
            assert!(LockName::new(name).is_err(), "{name:?}");
        }
        for name in ["a", "a b", "ä", &long[..255]] {
            assert_eq!(LockName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn invalid_namespaces_are_refused() {
        let long = "x".repeat(65);
        for name in ["", "A", "a b", "ä", "a/b", &long] {
            assert!(namespace(name).is_err(), "{name:?}");
        }
        for name in ["platform", "a.b_c-1", &long[..64]] {
            assert_eq!(&*namespace(name).unwrap(), name);
        }
    }

    #[test]
    fn one_name_or_a_list_of_names_is_accepted() {
        let text = |names: &dyn Names| {
            let names = names.to_names().unwrap();
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text(&"a"), ["a"]);
        assert_eq!(text(&String::from("a")), ["a"]);
        assert_eq!(text(&["b", "a"]), ["b", "a"]);
        assert_eq!(text(&vec![LockName::new("a").unwrap()]), ["a"]);
        assert_eq!(text(&&["a"][..]), ["a"]);
        assert_eq!(collect(&["b", "a", "b"]).unwrap().len(), 2);
        let none: [&str; 0] = [];
        assert!(collect(&none).is_err());
    }
}
