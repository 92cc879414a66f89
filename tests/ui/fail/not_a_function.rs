use locks_core::with_lock;

#[with_lock("box_update")]
#[derive(Clone)]
pub struct Updater;

#[with_lock("box_update")]
impl Updater {
    fn update(&self) {}
}

#[with_lock("box_update")]
const UPDATE: fn() = || ();

fn main() {
    Updater.clone().update();
    UPDATE();
}
