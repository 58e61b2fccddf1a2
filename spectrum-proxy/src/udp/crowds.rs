//! Which of several groups has most members, told without looking at the others: a group that changes by one member moves to a list
//! beside its own. Knows no member.

/// No group, or no list.
const NONE: u32 = u32::MAX;

/// The sizes of groups, which are numbered as they are added.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    groups: Vec<Crowd>,
    /// For each size the first of the groups that have it. The last one has any, but that of size 0.
    firsts: Vec<u32>,
    /// The number of groups with members.
    peopled: usize,
}

#[derive(Clone, Copy, Debug)]
struct Crowd {
    size: u32,
    before: u32,
    after: u32,
}

impl Crowds {
    /// One more group, without members.
    pub(super) fn add_group(&mut self) {
        self.groups.push(Crowd { size: 0, before: NONE, after: NONE });
    }

    /// The number of members of a group.
    pub(super) fn size(&self, group: u32) -> usize {
        self.at(group).map_or(0, |crowd| crowd.size as usize)
    }

    /// The number of groups that have any.
    pub(super) fn peopled(&self) -> usize {
        self.peopled
    }

    /// A group with as many as any, if one has any.
    pub(super) fn largest(&self) -> Option<u32> {
        self.firsts.last().copied().filter(|first| *first != NONE)
    }

    /// The group has a member more.
    pub(super) fn join(&mut self, group: u32) {
        let Some(size) = self.at(group).map(|crowd| crowd.size) else { return };
        self.move_to(group, size + 1);
        self.peopled += usize::from(size == 0);
    }

    /// The group has a member less.
    pub(super) fn leave(&mut self, group: u32) {
        let Some(size) = self.at(group).and_then(|crowd| crowd.size.checked_sub(1)) else { return };
        self.move_to(group, size);
        self.peopled -= usize::from(size == 0);
        // What was the largest alone still is, with one less.
        if self.firsts.last() == Some(&NONE) {
            self.firsts.pop();
        }
    }

    /// Takes all members out of all groups.
    pub(super) fn clear(&mut self) {
        self.groups.fill(Crowd { size: 0, before: NONE, after: NONE });
        (self.firsts, self.peopled) = (Vec::new(), 0);
    }

    fn move_to(&mut self, group: u32, size: u32) {
        let Some(Crowd { size: former, before, after }) = self.at(group).copied() else { return };
        match self.at_mut(before) {
            Some(crowd) => crowd.after = after,
            None => self.set_first(former, group, after),
        }
        if let Some(crowd) = self.at_mut(after) {
            crowd.before = before;
        }
        // Those without members are in no list.
        let next = if size == 0 { NONE } else { self.first_of(size) };
        if let Some(crowd) = self.at_mut(next) {
            crowd.before = group;
        }
        if let Some(crowd) = self.at_mut(group) {
            *crowd = Crowd { size, before: NONE, after: next };
        }
        if size > 0
            && let Some(first) = self.firsts.get_mut(size as usize - 1)
        {
            *first = group;
        }
    }

    /// Has the list of the groups of this size begin with `next`, if it began with `group`.
    fn set_first(&mut self, size: u32, group: u32, next: u32) {
        let place = (size as usize).checked_sub(1);
        let first = place.and_then(|place| self.firsts.get_mut(place));
        if let Some(first) = first.filter(|first| **first == group) {
            *first = next;
        }
    }

    /// The first group of this size, which is one more than the largest at most.
    fn first_of(&mut self, size: u32) -> u32 {
        if self.firsts.len() < size as usize {
            self.firsts.push(NONE);
        }
        self.firsts.get(size as usize - 1).copied().unwrap_or(NONE)
    }

    fn at(&self, group: u32) -> Option<&Crowd> {
        #[cfg(test)]
        tests::looked();
        self.groups.get(group as usize)
    }

    fn at_mut(&mut self, group: u32) -> Option<&mut Crowd> {
        #[cfg(test)]
        tests::looked();
        self.groups.get_mut(group as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        static LOOKED: Cell<usize> = const { Cell::new(0) };
    }

    /// One more look at a group.
    pub(super) fn looked() {
        LOOKED.set(LOOKED.get() + 1);
    }

    fn looks(what: impl FnOnce()) -> usize {
        let before = LOOKED.get();
        what();
        LOOKED.get() - before
    }

    proptest! {
        #[test]
        fn the_largest_is_what_a_search_finds(steps in proptest::collection::vec((0..5_u32, any::<bool>()), 0..200)) {
            let mut crowds = Crowds::default();
            let mut sizes = [0_usize; 5];
            (0..5).for_each(|_| crowds.add_group());
            for (group, joins) in steps {
                let size = &mut sizes[group as usize];
                if joins {
                    *size += 1;
                    crowds.join(group);
                } else if *size > 0 {
                    *size -= 1;
                    crowds.leave(group);
                }
                let most = *sizes.iter().max().unwrap();
                let largest = crowds.largest().map(|group| sizes[group as usize]);
                prop_assert_eq!(largest, (most > 0).then_some(most));
                prop_assert_eq!(crowds.peopled(), sizes.iter().filter(|size| **size > 0).count());
                prop_assert!((0..5).all(|group| crowds.size(group) == sizes[group as usize]));
                prop_assert_eq!(crowds.firsts.len(), most);
            }
            crowds.clear();
            prop_assert_eq!((crowds.largest(), crowds.peopled()), (None, 0));
        }
    }

    #[test]
    fn however_many_groups_there_are_as_few_are_looked_at() {
        let most_looks = [10_u32, 10_000].map(|groups| {
            let mut crowds = Crowds::default();
            (0..groups).for_each(|_| crowds.add_group());
            let joining = (0..groups * 3).map(|turn| looks(|| crowds.join(turn % groups))).max();
            let asking = looks(|| assert!(crowds.largest().is_some()));
            let leaving = (0..groups * 3).map(|turn| looks(|| crowds.leave(turn % groups))).max();
            (joining, asking, leaving)
        });
        assert_eq!(most_looks[0], most_looks[1]);
        assert!(most_looks[0] <= (Some(6), 0, Some(6)), "{most_looks:?}");
    }
}
