//! Which generations of configuration may be in force at a moment, so that an answer can be judged though it took its time.
//! Knows nothing of what is dialled.

use std::sync::{Arc, Mutex};

use spectrum_tests::scan::Service;

/// Services that are served together.
pub(crate) type Generation = Arc<Vec<Service>>;

/// The configurations that may be in force.
#[derive(Debug)]
pub(crate) struct Arena(Mutex<State>);

#[derive(Debug)]
struct State {
    generations: Vec<Generation>,
    /// The one that was in force for certain last.
    lowest: usize,
    /// The number of times that an instance was told to end.
    disturbances: u64,
    serving: bool,
    traffic: Traffic,
}

/// The conduct of clients, as told and as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Traffic {
    /// Dial.
    Flows,
    /// Finish what they have begun.
    Halting,
    /// They have finished.
    Halted,
    /// Finish, and go.
    Over,
}

/// A moment, to be compared with a later one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    lowest: usize,
    highest: usize,
    disturbances: u64,
    serving: bool,
}

/// The configurations in force between two moments.
#[derive(Clone, Debug)]
pub(crate) struct Between {
    /// All that may have been.
    pub(crate) generations: Vec<Generation>,
    /// True if no instance ended, nor was missing, in that time.
    pub(crate) undisturbed: bool,
}

impl Arena {
    pub(crate) fn new(first: Generation) -> Self {
        Self(Mutex::new(State {
            generations: vec![first],
            lowest: 0,
            disturbances: 0,
            serving: false,
            traffic: Traffic::Halted,
        }))
    }

    /// From now on `generation` may be in force, too.
    pub(crate) fn propose(&self, generation: Generation) {
        self.0.lock().unwrap().generations.push(generation);
    }

    /// Now nothing but the last one is in force.
    pub(crate) fn settle(&self) {
        let mut state = self.0.lock().unwrap();
        state.lowest = state.generations.len() - 1;
    }

    /// Now an instance serves.
    pub(crate) fn serve(&self) {
        self.settle();
        self.0.lock().unwrap().serving = true;
    }

    /// From now on, until one serves again, nobody is owed an answer.
    pub(crate) fn disturb(&self) {
        let mut state = self.0.lock().unwrap();
        state.disturbances += 1;
        state.serving = false;
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.0.lock().unwrap().traffic
    }

    pub(crate) fn direct(&self, traffic: Traffic) {
        self.0.lock().unwrap().traffic = traffic;
    }

    /// Clients have finished, if they were asked to.
    pub(crate) fn halted(&self) {
        let mut state = self.0.lock().unwrap();
        if state.traffic == Traffic::Halting {
            state.traffic = Traffic::Halted;
        }
    }

    /// The generation that was proposed last.
    pub(crate) fn latest(&self) -> Generation {
        let state = self.0.lock().unwrap();
        Arc::clone(state.generations.last().expect("the first generation"))
    }

    pub(crate) fn now(&self) -> Moment {
        let state = self.0.lock().unwrap();
        Moment {
            lowest: state.lowest,
            highest: state.generations.len() - 1,
            disturbances: state.disturbances,
            serving: state.serving,
        }
    }

    pub(crate) fn since(&self, begun: Moment) -> Between {
        let now = self.now();
        let state = self.0.lock().unwrap();
        Between {
            generations: state.generations[begun.lowest..=now.highest].to_vec(),
            undisturbed: begun.serving && now.serving && begun.disturbances == now.disturbances,
        }
    }
}
