//! A row per lock, as in most SQL lock libraries.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::Locks;
use crate::{
    Result,
    engine::Engine,
    sql::{Arg, Pool, Statement},
};

#[derive(Debug)]
pub(super) struct RowPerLock {
    pool: Pool,
    insert: Statement,
    delete: Statement,
}

impl RowPerLock {
    pub(super) async fn connect(engine: Engine, url: &str, connections: usize) -> Result<Self> {
        let insert = "INSERT INTO lock_rows (name, owner) VALUES (?, ?)";
        let delete = "DELETE FROM lock_rows WHERE name = ? AND owner = ?";
        Ok(Self {
            pool: Pool::open(engine, url, connections).await?,
            insert: Statement::new(engine, insert),
            delete: Statement::new(engine, delete),
        })
    }
}

impl Locks for RowPerLock {
    fn pair<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Duration>> {
        Box::pin(async move {
            let args = [Arg::Text(name), Arg::Text("task")];
            let asked = Instant::now();
            let mut connection = self.pool.take().await?;
            connection.execute(&self.insert, &args).await?;
            drop(connection);
            let took = asked.elapsed();
            let mut connection = self.pool.take().await?;
            connection.execute(&self.delete, &args).await?;
            Ok(took)
        })
    }
}
