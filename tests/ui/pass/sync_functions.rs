//! `fn` with all kinds of parameters and results.
#![deny(warnings)]

use std::{borrow::Cow, fmt::Display, sync::Mutex};

use locks_core::{LockError, with_lock};

struct App<'a> {
    id: u32,
    name: Cow<'a, str>,
}

#[with_lock("box_update")]
fn plain() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app_<app.id>_<app.name>")]
fn fields(app: App<'_>) -> Result<Cow<'_, str>, LockError> {
    Ok(app.name)
}

#[with_lock("app_<id>")]
fn generics<T, F, R>(id: T, work: F) -> Result<R, LockError>
where
    T: Display,
    F: FnOnce(T) -> R,
{
    Ok(work(id))
}

#[with_lock("<a>_<b>")]
fn lifetimes<'a, 'b: 'a>(a: &'a str, b: &'b str) -> Result<&'a str, LockError> {
    Ok(if a.len() > b.len() { a } else { b })
}

#[with_lock("app_<id>")]
fn hidden_types(
    id: impl Display,
    items: impl IntoIterator<Item = u8>,
) -> Result<impl Iterator<Item = impl Display>, LockError> {
    Ok(items.into_iter().map(move |item| format!("{id}{item}")))
}

#[with_lock("app_<id>")]
fn boxed(id: u8) -> Result<Box<dyn Display>, Box<dyn std::error::Error>> {
    if id > 3 {
        return Ok(Box::new(id));
    }
    "1".parse::<u8>()?;
    Ok(Box::new("few"))
}

#[with_lock("app_<id>_<first>_<deep>")]
fn destructured(
    App { id, .. }: App<'_>,
    (first, _): (String, Vec<u8>),
    [deep, rest @ ..]: [u8; 3],
    _: String,
) -> Result<String, LockError> {
    Ok(format!("{id}{first}{deep}{rest:?}"))
}

#[with_lock("app_<count>", acquire, busy = Ok(0))]
fn mutable(mut count: u32, list: &mut Vec<u32>) -> Result<u32, LockError> {
    count += 1;
    list.push(count);
    Ok(count)
}

#[with_lock("app_<count>")]
fn borrowed_out(count: u32, list: &mut Vec<u32>) -> Result<&mut u32, LockError> {
    list.push(count);
    Ok(&mut list[0])
}

#[with_lock("app_<id>")]
fn temporaries(id: u8, text: Mutex<String>) -> Result<usize, LockError> {
    let _ = id;
    Ok(text.lock().unwrap().len())
}

#[with_lock("app")]
fn returns_early(deep: bool) -> Result<u8, LockError> {
    if deep {
        return Ok(1);
    }
    plain()?;
    Ok(2)
}

#[test]
fn compiles() {
    let _ = (
        plain,
        fields,
        lifetimes,
        boxed,
        destructured,
        mutable,
        borrowed_out,
        temporaries,
    );
    let _ = (returns_early, generics::<u8, fn(u8) -> u8, u8>);
    if false {
        let _ = hidden_types(1, [2]);
    }
}
