//! `#[tokio::main]` and `#[tokio::test]` above and below the attribute.
#![deny(warnings)]

use locks_core::{LockError, LockManager, with_lock};

mod above {
    use super::{LockError, with_lock};

    #[with_lock("main")]
    #[tokio::main(flavor = "current_thread")]
    pub async fn main() -> Result<(), LockError> {
        tokio::task::yield_now().await;
        Ok(())
    }
}

mod below {
    use super::{LockError, with_lock};

    #[tokio::main]
    #[with_lock("main")]
    pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
        tokio::task::yield_now().await;
        Ok(())
    }

    #[allow(dead_code)]
    fn fits(error: LockError) -> Box<dyn std::error::Error> {
        error.into()
    }
}

#[tokio::test]
#[with_lock("test", locks = LockManager::connect("sqlite::memory:").blocking()?)]
async fn test_above() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("test", locks = LockManager::connect("sqlite::memory:").await?)]
#[tokio::test]
async fn test_below() -> Result<(), LockError> {
    Ok(())
}

#[test]
fn compiles() {
    assert!(matches!(above::main(), Err(LockError::NotInstalled)));
    assert!(below::main().is_err());
}
