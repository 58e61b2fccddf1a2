//! What an instance has raised, and the course from there to what it wants. Raises and lowers nothing itself: it says what is to
//! be done next, and is told what failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Resource, ResourceKind};

/// The things that are raised, or may be in part, and when those go that nothing wants any more.
#[derive(Debug, Default)]
pub struct Ledger {
    have: BTreeMap<Resource, Option<Instant>>,
}

/// What becomes of the things that are not wanted any more.
#[derive(Clone, Copy, Debug)]
pub enum Farewell {
    /// They go at once.
    AtOnce,
    /// They stay as long as what is open may need them, which is at most so long.
    Drain(Duration),
}

/// The next step of a course: things of one kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Act {
    /// They are to be raised, in this order, or made whole where a part of them is there.
    Raise(Vec<Resource>),
    /// They are to be lowered, in this order, as far as they are there.
    Lower(Vec<Resource>),
}

/// A course from what is raised to something else. Where a step of it fails it leads back.
#[derive(Debug)]
pub struct Course {
    raise: VecDeque<Resource>,
    raised: Vec<Resource>,
    /// In the order of raising: the last goes first.
    lower: Vec<Resource>,
    /// Those that were to go and are wanted again.
    recalled: Vec<(Resource, Instant)>,
    retired: Vec<(Resource, Instant)>,
    retreat: Retreat,
}

/// The end of a course that fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Retreat {
    /// Where it began: what it raised is lowered.
    Begin,
    /// Where it has come to. Half of what was taken away is better than none.
    Here,
}

impl Ledger {
    /// All of `have` is raised, each with when it goes, by the program that this process was before.
    pub fn adopt(&mut self, have: impl IntoIterator<Item = (Resource, Option<Instant>)>) {
        self.have = have.into_iter().collect();
    }

    /// The course to `want`, no more and no less.
    #[must_use]
    pub fn course_to(&self, want: &BTreeSet<Resource>, farewell: Farewell, now: Instant) -> Course {
        let raise = want.iter().filter(|resource| !self.have.contains_key(resource)).cloned();
        let mut course = Course::of(raise.collect(), Retreat::Begin);
        for (resource, due) in &self.have {
            match (want.contains(resource), due, farewell) {
                (true, None, _) | (false, Some(_), Farewell::Drain(_)) => {}
                (true, Some(due), _) => course.recalled.push((resource.clone(), *due)),
                (false, _, Farewell::AtOnce) => course.lower.push(resource.clone()),
                (false, None, Farewell::Drain(drain)) => match resource.patience(drain) {
                    Duration::ZERO => course.lower.push(resource.clone()),
                    patience => course.retired.push((resource.clone(), now + patience)),
                },
            }
        }
        course
    }

    /// The course on which goes what is due.
    #[must_use]
    pub fn course_of_due(&self, now: Instant) -> Course {
        let mut course = Course::of(VecDeque::new(), Retreat::Begin);
        let is_due = |due: &Option<Instant>| due.is_some_and(|due| due <= now);
        course.lower =
            self.have.iter().filter(|(_, due)| is_due(due)).map(|(resource, _)| resource.clone()).collect();
        course
    }

    /// The course on which `missing` comes back, which others have taken away.
    #[must_use]
    pub fn course_back(missing: &[Resource]) -> Course {
        Course::of(missing.iter().cloned().collect(), Retreat::Here)
    }

    /// Has the second of each in place of the first, which is the same thing under another name.
    pub fn hand_on(&mut self, handed: Vec<(Resource, Resource)>) {
        // They may take each other's places.
        let taken: Vec<_> =
            handed.into_iter().filter_map(|(from, to)| Some((to, self.have.remove(&from)?))).collect();
        self.have.extend(taken);
    }

    /// The moment at which something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.have.values().copied().flatten().min()
    }

    /// The things that are raised, in the order of raising, each with when it goes.
    pub fn have(&self) -> impl Iterator<Item = (&Resource, Option<Instant>)> {
        self.have.iter().map(|(resource, due)| (resource, *due))
    }

    /// True if `resource` is raised.
    #[must_use]
    pub fn contains(&self, resource: &Resource) -> bool {
        self.have.contains_key(resource)
    }

    /// True if something of `kind` is raised.
    #[must_use]
    pub fn has(&self, kind: ResourceKind) -> bool {
        // They are in the order of their kinds, and what is asked for most is among the last.
        self.have.keys().rev().map(Resource::kind).take_while(|one| *one >= kind).any(|one| one == kind)
    }
}

impl Course {
    fn of(raise: VecDeque<Resource>, retreat: Retreat) -> Self {
        let (raised, lower, recalled, retired) = Default::default();
        Self { raise, raised, lower, recalled, retired, retreat }
    }

    /// The things that it leads to and that are not raised yet.
    pub fn to_raise(&self) -> impl Iterator<Item = &Resource> {
        self.raise.iter()
    }

    /// The next step. From when it is given `ledger` has what is to be raised, and has no more what is to be lowered.
    pub fn next(&mut self, ledger: &mut Ledger) -> Option<Act> {
        let Some(first) = self.raise.front() else {
            for (resource, _) in self.recalled.drain(..) {
                ledger.have.insert(resource, None);
            }
            for (resource, due) in self.retired.drain(..) {
                ledger.have.insert(resource, Some(due));
            }
            let last = self.lower.last()?.kind();
            let step: Vec<Resource> =
                std::iter::from_fn(|| self.lower.pop_if(|next| next.kind() == last)).collect();
            for resource in &step {
                ledger.have.remove(resource);
            }
            return Some(Act::Lower(step));
        };
        let kind = first.kind();
        let step: Vec<Resource> =
            std::iter::from_fn(|| self.raise.pop_front_if(|next| next.kind() == kind)).collect();
        for resource in &step {
            // What comes back may be about to go all the same.
            ledger.have.entry(resource.clone()).or_insert(None);
        }
        self.raised.extend(step.iter().cloned());
        Some(Act::Raise(step))
    }

    /// The raising that was to be done last has failed, perhaps after a part of it: the course leads back from here.
    pub fn failed(&mut self) {
        let raised = std::mem::take(&mut self.raised);
        *self = Self::of(VecDeque::new(), self.retreat);
        if self.retreat == Retreat::Begin {
            self.lower = raised;
        }
    }
}

#[cfg(test)]
mod tests;
