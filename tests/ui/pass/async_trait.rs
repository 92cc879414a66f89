//! `#[async_trait]`, which first changes the function into one that returns a boxed future.
#![deny(warnings)]

use async_trait::async_trait;
use locks_core::{LockError, LockManager, with_lock};

#[async_trait]
trait Job: Send + Sync {
    async fn run(&self, id: &str) -> Result<usize, LockError>;

    #[with_lock("job_<id>")]
    async fn by_default(&mut self, id: &str) -> Result<Box<dyn Send>, LockError> {
        if id.is_empty() {
            return Ok(Box::new(self.run("x").await?));
        }
        Ok(Box::new(1))
    }
}

struct Backup {
    id: u32,
    locks: LockManager,
}

#[async_trait]
impl Job for Backup {
    #[with_lock("backup_<self.id>_<id>", locks = self.locks, guard = guard)]
    async fn run(&self, id: &str) -> Result<usize, LockError> {
        let _ = guard.token();
        Ok(id.len() + self.id as usize)
    }
}

#[async_trait]
trait Shapes {
    async fn patterns(self, pair: (u8, String), count: u32) -> Result<String, LockError>;
}

#[async_trait]
impl Shapes for Box<Backup> {
    #[with_lock("pair_<first>_<count>", acquire, busy = Ok(second))]
    async fn patterns(
        mut self,
        (first, second): (u8, String),
        mut count: u32,
    ) -> Result<String, LockError> {
        count += u32::from(first);
        self.id += count;
        Ok(format!("{second}{}", self.id))
    }
}

#[async_trait(?Send)]
trait Local {
    #[with_lock("local_<id>")]
    async fn run(id: std::rc::Rc<str>) -> Result<usize, LockError> {
        Ok(id.len())
    }
}

impl Local for () {}

async fn call(job: &mut dyn Job, backup: Backup) -> Result<(), LockError> {
    job.run("").await?;
    job.by_default("").await?;
    Box::new(backup).patterns((1, String::new()), 2).await?;
    <()>::run("".into()).await?;
    Ok(())
}

#[test]
fn compiles() {
    let _ = call;
    let _ = |locks| Backup { id: 1, locks };
}
