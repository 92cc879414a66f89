//! Native `async fn` in traits: default methods and implementations.
#![deny(warnings)]
#![allow(async_fn_in_trait)]

use std::fmt::Display;

use locks_core::{LockError, with_lock};

trait Job {
    type Id: Display;
    type Error: From<LockError>;

    fn id(&self) -> Self::Id;

    async fn run(&mut self, id: &str) -> Result<(), Self::Error>;

    #[with_lock("job_<id>")]
    async fn twice(&mut self, id: &str) -> Result<(), Self::Error> {
        self.run(id).await?;
        self.run(id).await
    }

    #[with_lock("job_<id>")]
    async fn by_default(id: Self::Id) -> Result<Self::Id, Self::Error>
    where
        Self: Sized,
    {
        Ok(id)
    }

    #[with_lock("job_<id>")]
    fn blocking(&self, id: u8) -> Result<Self::Id, Self::Error> {
        let _ = id;
        Ok(self.id())
    }
}

struct Backup<T>(T);

impl<T: Display + Clone> Job for Backup<T> {
    type Id = T;
    type Error = LockError;

    fn id(&self) -> T {
        self.0.clone()
    }

    #[with_lock("backup_<self.0>_<id>")]
    async fn run(&mut self, id: &str) -> Result<(), LockError> {
        let _ = id;
        Ok(())
    }
}

#[test]
fn compiles() {
    let _ = (
        <Backup<u8>>::run,
        <Backup<u8>>::twice,
        <Backup<u8>>::by_default,
        <Backup<u8>>::blocking,
    );
    let _ = Backup(1);
}
