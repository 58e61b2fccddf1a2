//! The open connections of one destination on one worker, so that they can be cut. Knows nothing of what they do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::task::{AbortHandle, spawn_local};

/// The tasks that serve them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    tasks: RefCell<HashMap<u64, AbortHandle>>,
    next: Cell<u64>,
}

impl Connections {
    /// Serves one more, with a future that holds its place for as long as it lasts. Must be called within the worker's
    /// runtime.
    pub(crate) fn serve<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        serving: impl FnOnce(ConnectionEntry) -> F,
    ) {
        let number = self.next.replace(self.next.get() + 1);
        // Not wrapped in a future of ours, which would have room for the other one twice.
        let serving = serving(ConnectionEntry { connections: Rc::clone(self), number });
        let task = spawn_local(serving);
        // The task has not run yet.
        self.tasks.borrow_mut().insert(number, task.abort_handle());
    }

    /// True if there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty()
    }

    /// Cuts all: each is dropped where it stands. How many there were.
    pub(crate) fn cut(&self) -> usize {
        let tasks = self.tasks.take();
        for task in tasks.values() {
            task.abort();
        }
        tasks.len()
    }
}

/// A connection's entry, removed when it is over, however that comes.
#[derive(Debug)]
pub(crate) struct ConnectionEntry {
    connections: Rc<Connections>,
    number: u64,
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.connections.tasks.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_over_is_forgotten_and_what_is_open_is_cut() {
        struct Dropped(Rc<Cell<usize>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let set = LocalSet::new();
        set.run_until(async {
            let (connections, dropped) = (Rc::<Connections>::default(), Rc::<Cell<usize>>::default());
            connections.serve(|place| async { drop(place) });
            for _ in 0..3 {
                let held = Dropped(Rc::clone(&dropped));
                connections.serve(|place| async move {
                    std::future::pending::<()>().await;
                    drop((held, place));
                });
            }
            yield_now().await;
            assert_eq!(connections.tasks.borrow().len(), 3);
            assert_eq!(connections.cut(), 3);
            assert!(connections.is_empty());
            yield_now().await;
            assert_eq!(dropped.get(), 3);
        })
        .await;
    }
}
