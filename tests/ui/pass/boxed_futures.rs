//! Functions that return the future of an `async` block.
#![deny(warnings)]

use std::{future::Future, pin::Pin};

use locks_core::{LockError, with_lock};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Made<'a> = Pin<Box<dyn Future<Output = Result<usize, LockError>> + Send + 'a>>;

#[with_lock("app_<id>")]
fn pinned<'a>(
    id: &'a str,
    more: Vec<u8>,
) -> Pin<Box<dyn Future<Output = Result<usize, LockError>> + Send + 'a>> {
    Box::pin(async move {
        if more.is_empty() {
            return Ok(0);
        }
        Ok(id.len())
    })
}

#[with_lock("app_<id>")]
fn named(id: &str) -> BoxFuture<'_, Result<Box<dyn Send>, LockError>> {
    return Box::pin(async move { Ok(Box::new(id.len()) as _) });
}

#[with_lock("app_<id>")]
fn aliased(id: &str) -> Made<'_> {
    Box::pin(async move { Ok(id.len()) })
}

#[with_lock("app_<id>")]
fn only_boxed(id: String) -> Box<dyn Future<Output = Result<usize, LockError>> + Unpin> {
    Box::new(Box::pin(async move { Ok(id.len()) }))
}

#[with_lock("app_<id>")]
fn hidden(id: &str) -> impl Future<Output = Result<impl Send + use<>, LockError>> + Send {
    async move {
        pinned(id, Vec::new()).await?;
        Ok(1)
    }
}

#[with_lock("app_<id>", acquire, busy = Ok(id))]
fn refused(id: String) -> impl Future<Output = Result<String, LockError>> + Send {
    async move { Ok(id + "x") }
}

#[with_lock("app_<depth>")]
fn recursive(depth: u32) -> BoxFuture<'static, Result<u32, LockError>> {
    Box::pin(async move {
        if depth == 0 {
            return Ok(0);
        }
        Ok(1 + recursive(depth - 1).await?)
    })
}

/// Returns a boxed future inside the `Result`, which is a value and not awaited.
#[with_lock("app")]
fn value() -> Result<BoxFuture<'static, ()>, LockError> {
    Ok(Box::pin(async {}))
}

#[test]
fn compiles() {
    let _ = (
        pinned("", vec![]),
        named(""),
        aliased(""),
        only_boxed(String::new()),
    );
    let _ = (hidden(""), refused(String::new()), recursive(3), value);
}
