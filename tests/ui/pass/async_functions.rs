//! `async fn` with all kinds of parameters and results.
#![deny(warnings)]

use std::{borrow::Cow, fmt::Display, future::Future, sync::Mutex};

use locks_core::{LockError, with_lock};

struct App<'a> {
    id: u32,
    name: Cow<'a, str>,
    r#type: (u8, &'static str),
}

#[with_lock("box_update")]
async fn plain() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_task_<app>", "app_backup_<app>")]
async fn argument(app: &str) -> locks_core::Result<usize> {
    Ok(app.len())
}

#[with_lock("app_<app.id>_<app.name>_<app.r#type.1>_<app.type.0>")]
async fn fields(app: App<'_>) -> Result<Cow<'_, str>, LockError> {
    Ok(app.name)
}

#[with_lock("app_<id>")]
async fn generics<T, F, R>(id: T, work: F) -> Result<R::Output, LockError>
where
    T: Display + Send,
    F: FnOnce(T) -> R,
    R: Future,
{
    Ok(work(id).await)
}

#[with_lock("app_<id>")]
async fn constants<const N: usize>(id: u8, list: [u8; N]) -> Result<[u8; N], LockError> {
    Ok(list.map(|item| item + id))
}

#[with_lock("<a>_<b>")]
async fn lifetimes<'a, 'b: 'a>(a: &'a str, b: &'b str) -> Result<&'a str, LockError> {
    Ok(if a.len() > b.len() { a } else { b })
}

#[with_lock("app_<id>")]
async fn hidden_types(
    id: impl Display,
    items: impl IntoIterator<Item = u8> + Send,
) -> Result<impl Iterator<Item = impl Display>, LockError> {
    Ok(items.into_iter().map(move |item| format!("{id}{item}")))
}

#[with_lock("app_<id>")]
async fn boxed(
    id: u8,
) -> Result<Box<dyn Display + Send>, Box<dyn std::error::Error + Send + Sync>> {
    if id > 3 {
        return Ok(Box::new(id));
    }
    "1".parse::<u8>()?;
    Ok(Box::new("few"))
}

#[with_lock("app_<id>_<name>_<first>_<deep>")]
async fn destructured(
    App { id, name, .. }: App<'_>,
    (first, _): (String, Vec<u8>),
    [deep, rest @ ..]: [u8; 3],
    &(_, ref text): &(u8, String),
    _: String,
    _unused: String,
) -> Result<String, LockError> {
    Ok(format!("{id}{name}{first}{deep}{rest:?}{text}"))
}

#[with_lock("app_<count>_<name>")]
async fn mutable(
    mut count: u32,
    mut name: String,
    (mut a, b): (u8, u8),
    list: &mut Vec<u32>,
) -> Result<(), LockError> {
    count += 1;
    name.push('x');
    a += b;
    list.extend([count, u32::from(a)]);
    Ok(())
}

#[with_lock("app_<type>_<r#match>")]
async fn raw(r#type: u8, r#match: u8) -> Result<u8, LockError> {
    Ok(r#type + r#match)
}

#[with_lock("app_<named>")]
async fn named_only(named: u8) -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_<id>", wait = "30s", busy = Ok(Some(name)), locks = manager.0)]
async fn used_by_options(
    id: u8,
    name: String,
    manager: (locks_core::LockManager,),
) -> Result<Option<String>, LockError> {
    Ok(None)
}

#[with_lock("app_<id>")]
async fn temporaries(id: u8, text: Mutex<String>) -> Result<usize, LockError> {
    let _ = id;
    Ok(text.lock().unwrap().len())
}

#[with_lock("app_<id>")]
async fn from_a_macro(id: u8) -> Result<(), LockError> {
    macro_rules! locked {
        ($name:ident, $arg:ident, $template:literal) => {
            #[with_lock($template)]
            async fn $name($arg: u8, other: u8) -> Result<u8, LockError> {
                Ok($arg + other)
            }
        };
    }
    locked!(inner, number, "number_<number>_<other>");
    inner(id, 2).await?;
    Ok(())
}

#[test]
fn compiles() {
    let _ = (
        plain(),
        argument(""),
        lifetimes("", ""),
        boxed(1),
        raw(1, 2),
        named_only(1),
    );
    let _ = (
        fields,
        constants::<3>,
        destructured,
        mutable,
        used_by_options,
        temporaries,
    );
    let _ = hidden_types(1, [2]);
    let _ = generics("1", async |id| id.len());
    let _ = from_a_macro(1);
}
