use locks_core::with_lock;

struct Report;

fn text(error: locks_core::LockError) -> String {
    error.to_string()
}

#[with_lock("box_update")]
async fn nothing() {}

#[with_lock("box_update")]
fn tuple() -> (u8, u8) {
    (1, 2)
}

#[with_lock("box_update")]
async fn other() -> Vec<Report> {
    vec![Report]
}

#[with_lock("box_update", map_err = text)]
fn sync_other() -> Option<Report> {
    Some(Report)
}

#[with_lock("box_update")]
fn future() -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {})
}

fn main() {}
