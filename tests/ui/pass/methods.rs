//! All forms of `self`, and `Self` types.
#![deny(warnings)]

use std::{pin::Pin, rc::Rc, sync::Arc};

use locks_core::{LockError, LockManager, with_lock};

#[derive(Clone)]
struct Task<T> {
    id: u32,
    parts: (String, T),
    locks: LockManager,
}

impl<T: Clone> Task<T> {
    #[with_lock("app_<self.id>_<self.parts.0>")]
    async fn shared(&self) -> Result<&Self, LockError> {
        Ok(self)
    }

    #[with_lock("app_<self.id>", locks = self.locks)]
    async fn exclusive(&mut self, part: T) -> Result<&mut T, LockError> {
        self.parts.1 = part;
        Ok(&mut self.parts.1)
    }

    #[with_lock("app_<self.id>", locks = &self.locks)]
    async fn consumed(self) -> Result<Self, LockError> {
        Ok(self)
    }

    #[with_lock("app_<self.id>", acquire, busy = Ok((self, 0)))]
    async fn changed(mut self) -> Result<(Self, u32), LockError> {
        self.id += 1;
        let id = self.id;
        Ok((self, id))
    }

    #[with_lock("app_<self.id>")]
    async fn boxed(self: Box<Self>) -> Result<Box<Self>, LockError> {
        Ok(self)
    }

    #[with_lock("app_<self.id>", locks = self.locks)]
    async fn counted(self: Arc<Self>, other: &Arc<Self>) -> Result<u32, LockError> {
        Ok(self.id + other.id)
    }

    #[with_lock("app_<self.id>")]
    async fn by_reference(self: &Arc<Self>) -> Result<Arc<Self>, LockError> {
        Ok(self.clone())
    }

    #[with_lock("app_<self.id>")]
    async fn pinned(self: Pin<&mut Self>) -> Result<u32, LockError> {
        Ok(self.id)
    }

    #[with_lock("app_<self.id>")]
    fn sync_shared(&self) -> Result<&str, LockError> {
        Ok(&self.parts.0)
    }

    #[with_lock("app_<self.id>")]
    fn sync_exclusive(&mut self) -> Result<&mut T, LockError> {
        self.id += 1;
        Ok(&mut self.parts.1)
    }

    #[with_lock("app_<self.id>", locks = self.locks)]
    fn sync_consumed(mut self) -> Result<Self, LockError> {
        self.id += 1;
        Ok(self)
    }

    #[with_lock("app_<self.id>")]
    fn sync_counted(self: Rc<Self>) -> Result<T, LockError> {
        Ok(self.parts.1.clone())
    }

    #[with_lock("app_<self.id>")]
    fn sync_pinned(self: Pin<&mut Self>) -> Result<Pin<&mut Self>, LockError> {
        Ok(self)
    }

    #[with_lock("app_<other.id>")]
    async fn without_self(other: &Self) -> Result<T, LockError>
    where
        Self: Sized,
    {
        Ok(other.parts.1.clone())
    }
}

struct Id(u32);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Id {
    #[with_lock("app_<self>")]
    async fn whole(&self) -> Result<(), LockError> {
        Ok(())
    }
}

#[test]
fn compiles() {
    let _ = (
        Task::<u8>::shared,
        Task::<u8>::exclusive,
        Task::<u8>::consumed,
    );
    let _ = (Task::<u8>::changed, Task::<u8>::boxed, Task::<u8>::counted);
    let _ = (
        Task::<u8>::by_reference,
        Task::<u8>::pinned,
        Task::<u8>::sync_shared,
    );
    let _ = (
        Task::<u8>::sync_exclusive,
        Task::<u8>::sync_consumed,
        Task::<u8>::sync_counted,
    );
    let _ = (Task::<u8>::sync_pinned, Task::<u8>::without_self, Id::whole);
    let _ = Id(1);
}
