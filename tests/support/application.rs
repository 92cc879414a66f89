//! An application that writes to the database file of the locks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{engine::Database, plain::Plain, wait::block_on};

/// A connection that writes in one transaction after the other, in a thread of its own.
#[derive(Debug)]
pub struct Application {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Application {
    /// Begins to write. Each transaction lasts for this time, and a pause follows.
    ///
    /// # Panics
    ///
    /// If the table cannot be created.
    pub async fn start(db: &Database, transaction: Duration, pause: Duration) -> Self {
        let mut conn = db.connect().await;
        let table = "CREATE TABLE IF NOT EXISTS application (n INTEGER)";
        conn.execute("PRAGMA busy_timeout = 60000")
            .await
            .expect("a setting");
        conn.execute(table).await.expect("it is created");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || block_on(write(conn, [transaction, pause], &stopped)));
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends the application after its transaction, and returns how many it has committed.
    ///
    /// # Panics
    ///
    /// If a statement failed.
    #[must_use]
    pub fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("its statements succeed")
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn write(mut conn: Plain, [transaction, pause]: [Duration; 2], stop: &AtomicBool) -> u32 {
    let mut committed = 0;
    while !stop.load(Ordering::Relaxed) {
        let begin = "BEGIN IMMEDIATE; INSERT INTO application VALUES (1)";
        conn.execute(begin).await.expect("it waits for the file");
        thread::sleep(transaction);
        conn.execute("COMMIT").await.expect("it has the file");
        committed += 1;
        thread::sleep(pause);
    }
    committed
}
