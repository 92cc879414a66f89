//! Names of locks, namespaces and tasks, and their rules.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    ops::Deref,
    rc::Rc,
    sync::Arc,
};

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

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// By one holder.
    #[default]
    Exclusive,
    /// Together with all others that share it: see [`Shared`].
    Shared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        })
    }
}

/// Asks for locks that are held together with other shared requests for the same names.
///
/// A name has any number of shared holders or one exclusive holder. A waiting exclusive request
/// is not overtaken by later shared ones. What the conflict matrix says of *different* names does
/// not depend on the mode.
///
/// A shared lock cannot become exclusive: if a scope that shares a lock waits for it exclusively,
/// that is a [`Deadlock`](crate::LockError::Deadlock). If a request names a lock in both modes, it
/// asks for the exclusive lock.
///
/// In the lock table of the original platform, a shared lock is held by the task that has shared
/// it for the longest time. If the original releases it, all holders lose it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> locks_core::Result<()> {
/// # let locks = locks_core::LockManager::connect("sqlite::memory:").await?;
/// use locks_core::Shared;
///
/// let first = locks.acquire(("app_task_1", Shared("platform"))).await?;
/// let second = locks.acquire(("app_task_2", Shared("platform"))).await?;
/// assert!(locks.acquire("platform").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared<N>(pub N);

/// The names of one request: sorted, each once, with its mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    all: Arc<[LockName]>,
    /// Those that are shared, sorted; `None` if there are none.
    shared: Option<Arc<[LockName]>>,
}

impl Names {
    /// Names that are sorted, each once. `shared` are some of them.
    pub(crate) fn new(all: Arc<[LockName]>, shared: Arc<[LockName]>) -> Self {
        let shared = (!shared.is_empty()).then_some(shared);
        Self { all, shared }
    }

    pub(crate) fn one(name: LockName, mode: Mode) -> Self {
        Self::from_iter([(name, mode)])
    }

    pub(crate) fn all(&self) -> &Arc<[LockName]> {
        &self.all
    }

    /// Those that are shared.
    pub(crate) fn shared(&self) -> &[LockName] {
        self.shared.as_deref().unwrap_or_default()
    }

    pub(crate) fn mode(&self, name: &LockName) -> Mode {
        match self.shared().binary_search(name) {
            Ok(_) => Mode::Shared,
            Err(_) => Mode::Exclusive,
        }
    }

    pub(crate) fn with_modes(&self) -> impl Iterator<Item = (&LockName, Mode)> {
        self.all.iter().map(|name| (name, self.mode(name)))
    }
}

impl Deref for Names {
    type Target = [LockName];

    fn deref(&self) -> &[LockName] {
        &self.all
    }
}

impl FromIterator<(LockName, Mode)> for Names {
    /// The names are sorted. If a name occurs in both modes, it is exclusive.
    fn from_iter<I: IntoIterator<Item = (LockName, Mode)>>(names: I) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        let is_shared = |mode: &Mode| *mode == Mode::Shared;
        // The first of equal names is kept.
        names.sort_by(|(a, x), (b, y)| a.cmp(b).then(is_shared(x).cmp(&is_shared(y))));
        names.dedup_by(|(later, _), (first, _)| later == first);
        let shared = names.iter().filter(|(_, mode)| is_shared(mode));
        let shared: Vec<_> = shared.map(|(name, _)| name.clone()).collect();
        Self {
            shared: (!shared.is_empty()).then(|| shared.into()),
            all: names.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

/// `a, b (shared)`.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, mode)) in self.with_modes().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let shared = if mode == Mode::Shared {
                " (shared)"
            } else {
                ""
            };
            write!(f, "{comma}{name}{shared}")?;
        }
        Ok(())
    }
}

/// One lock name or several: the argument of
/// [`LockManager::acquire`](crate::LockManager::acquire) and
/// [`LockManager::wait`](crate::LockManager::wait).
///
/// Several names are granted together or not at all. A name that is repeated counts once. An
/// empty list is [`LockError::InvalidName`].
///
/// Names in [`Shared`] are shared. A tuple of up to eight parts can mix modes and types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name locks",
    label = "neither a lock name nor a list of lock names",
    note = "pass a `&str`, a `String`, a `LockName`, or an array, slice, `Vec` or tuple of these; \
            `Shared(name)` asks for a shared lock"
)]
pub trait IntoLockNames: sealed::Names {}

impl<T: sealed::Names + ?Sized> IntoLockNames for T {}

pub(crate) mod sealed {
    use super::{LockName, Mode, Result};

    pub trait Name {
        fn to_name(&self) -> Result<(LockName, Mode)>;
    }

    pub trait Names {
        fn to_names(&self) -> Result<Vec<(LockName, Mode)>>;
    }
}

/// The names of one request.
pub(crate) fn collect(names: &(impl sealed::Names + ?Sized)) -> Result<Names> {
    let names = names.to_names()?;
    if names.is_empty() {
        return Err(LockError::InvalidName {
            name: "".into(),
            reason: "a request must name at least one lock",
        });
    }
    Ok(names.into_iter().collect())
}

/// Implements both traits for a type that derefs to a text.
macro_rules! impl_names_for_text {
    ($($name:ty),+ $(,)?) => {$(
        impl sealed::Name for $name {
            fn to_name(&self) -> Result<(LockName, Mode)> {
                let text: &str = self.as_ref();
                Ok((LockName::new(text)?, Mode::Exclusive))
            }
        }
        impl sealed::Names for $name {
            fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
                sealed::Name::to_name(self).map(|name| vec![name])
            }
        }
    )+};
}

impl_names_for_text!(str, String, Cow<'_, str>, Box<str>, Arc<str>, Rc<str>);

impl sealed::Name for LockName {
    fn to_name(&self) -> Result<(LockName, Mode)> {
        Ok((self.clone(), Mode::Exclusive))
    }
}

impl sealed::Names for LockName {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        sealed::Name::to_name(self).map(|name| vec![name])
    }
}

impl sealed::Names for Names {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        let names = self.with_modes();
        Ok(names.map(|(name, mode)| (name.clone(), mode)).collect())
    }
}

impl<T: sealed::Name> sealed::Name for Shared<T> {
    fn to_name(&self) -> Result<(LockName, Mode)> {
        let (name, _) = self.0.to_name()?;
        Ok((name, Mode::Shared))
    }
}

impl<T: sealed::Names> sealed::Names for Shared<T> {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        let names = self.0.to_names()?.into_iter();
        Ok(names.map(|(name, _)| (name, Mode::Shared)).collect())
    }
}

impl<T: sealed::Name + ?Sized> sealed::Name for &T {
    fn to_name(&self) -> Result<(LockName, Mode)> {
        (**self).to_name()
    }
}

impl<T: sealed::Names + ?Sized> sealed::Names for &T {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        (**self).to_names()
    }
}

impl<T: sealed::Name> sealed::Names for [T] {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        self.iter().map(sealed::Name::to_name).collect()
    }
}

impl<T: sealed::Name, const N: usize> sealed::Names for [T; N] {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        self.as_slice().to_names()
    }
}

impl<T: sealed::Name> sealed::Names for Vec<T> {
    fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
        self.as_slice().to_names()
    }
}

/// Implements the trait for tuples.
macro_rules! impl_names_for_tuples {
    ($(($($part:ident)+))+) => {$(
        impl<$($part: sealed::Names),+> sealed::Names for ($($part,)+) {
            #[allow(non_snake_case, reason = "each variable has the name of its type")]
            fn to_names(&self) -> Result<Vec<(LockName, Mode)>> {
                let ($($part,)+) = self;
                let mut names = Vec::new();
                $(names.extend($part.to_names()?);)+
                Ok(names)
            }
        }
    )+};
}

impl_names_for_tuples! {
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
}

/// Names that are all exclusive.
#[cfg(test)]
mod for_tests {
    use super::{Arc, LockName, Mode, Names};

    impl<const N: usize> From<[LockName; N]> for Names {
        fn from(names: [LockName; N]) -> Self {
            names.into_iter().collect()
        }
    }

    impl From<Arc<[LockName]>> for Names {
        fn from(names: Arc<[LockName]>) -> Self {
            names.iter().cloned().collect()
        }
    }

    impl FromIterator<LockName> for Names {
        fn from_iter<I: IntoIterator<Item = LockName>>(names: I) -> Self {
            let names = names.into_iter();
            names.map(|name| (name, Mode::Exclusive)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{sealed::Names as _, *};

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

    fn text(names: &dyn sealed::Names) -> String {
        collect(names).unwrap().to_string()
    }

    #[test]
    fn one_name_or_a_list_of_names_is_accepted() {
        assert_eq!(text(&"a"), "a");
        assert_eq!(text(&String::from("a")), "a");
        assert_eq!(text(&["b", "a"]), "a, b");
        assert_eq!(text(&vec![LockName::new("a").unwrap()]), "a");
        assert_eq!(text(&&["a"][..]), "a");
        assert_eq!(text(&["b", "a", "b"]), "a, b");
        let none: [&str; 0] = [];
        assert!(collect(&none).is_err());
        assert!(collect(&Shared(none)).is_err());
    }

    #[test]
    fn each_name_has_the_mode_in_which_it_is_requested() {
        assert_eq!(text(&Shared("a")), "a (shared)");
        assert_eq!(text(&Shared(["b", "a"])), "a (shared), b (shared)");
        assert_eq!(text(&[Shared("b"), Shared("a")]), "a (shared), b (shared)");
        assert_eq!(text(&("b", Shared("a"))), "a (shared), b");
        let names = vec![String::from("c"), String::from("d")];
        assert_eq!(
            text(&(Shared(&names), "a", ["b"])),
            "a, b, c (shared), d (shared)"
        );
    }

    #[test]
    fn a_name_in_both_modes_is_exclusive() {
        for names in [("a", Shared("a")).to_names(), (Shared("a"), "a").to_names()] {
            let names: Names = names.unwrap().into_iter().collect();
            assert_eq!(names.to_string(), "a");
            assert!(names.shared().is_empty());
        }
    }
}
