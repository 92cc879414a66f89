use locks_core::with_lock;

struct TaskError;
struct OtherError;

fn convert(_: locks_core::LockError) -> OtherError {
    OtherError
}

#[with_lock("box_update", map_err = convert)]
async fn update() -> Result<(), TaskError> {
    Ok(())
}

fn main() {}
