//! `#[instrument]` above and below the attribute.
#![deny(warnings)]

use std::{future::Future, pin::Pin};

use async_trait::async_trait;
use locks_core::{LockError, with_lock};
use tracing::instrument;

struct NoDebug;

#[instrument(skip(secret), fields(more = id), err, ret)]
#[with_lock("app_<id>")]
async fn above(id: u32, secret: String) -> Result<usize, LockError> {
    Ok(id as usize + secret.len())
}

#[with_lock("app_<id>")]
#[instrument(skip(secret, pair), err)]
async fn below(
    id: u32,
    secret: String,
    (pair, _): (u8, NoDebug),
    _: NoDebug,
) -> Result<usize, LockError> {
    Ok(id as usize + secret.len() + usize::from(pair))
}

#[instrument(skip_all)]
#[with_lock("app_<id>")]
fn sync_above(id: u32) -> Result<u32, LockError> {
    Ok(id)
}

#[with_lock("app_<id>")]
#[instrument(skip(secret))]
fn sync_below(mut id: u32, secret: &str) -> Result<Box<dyn Send>, LockError> {
    id += 1;
    Ok(Box::new((id, secret.len())))
}

#[with_lock("app_<id>")]
#[instrument]
fn boxed_below(id: u32) -> Pin<Box<dyn Future<Output = Result<u32, LockError>> + Send>> {
    Box::pin(async move { Ok(id) })
}

#[instrument]
#[with_lock("app_<id>")]
fn boxed_above(id: u32) -> Pin<Box<dyn Future<Output = Result<u32, LockError>> + Send>> {
    Box::pin(async move { Ok(id) })
}

#[async_trait]
trait Job: Sync {
    #[instrument(skip(self))]
    #[with_lock("app_<id>")]
    async fn above(&self, id: u32) -> Result<u32, LockError> {
        Ok(id)
    }

    #[with_lock("app_<id>")]
    #[instrument(skip(self), err)]
    async fn below(&self, id: u32) -> Result<u32, LockError> {
        Ok(id)
    }
}

#[test]
fn compiles() {
    let _ = (
        above,
        below,
        sync_above,
        sync_below,
        boxed_above,
        boxed_below,
    );
    let _ = (<dyn Job>::above, <dyn Job>::below);
}
