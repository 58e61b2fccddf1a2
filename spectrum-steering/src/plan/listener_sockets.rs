//! How many sockets the listeners of destinations have, where descriptors are few. Opens none.

use std::num::NonZeroUsize;

/// Of the descriptors one part in so many goes to listeners as long as each worker can have a socket of each.
const SHARE: usize = 2;

/// When each destination has one socket only, so much of the descriptors is kept for connections: one part in four.
const LEAST_FOR_CONNECTIONS: usize = 4;

/// The descriptors there are for listeners.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenerRoom {
    /// The number of descriptors that the process may have.
    pub descriptors: usize,
    /// The number of them that listeners have already.
    pub held: usize,
    /// The number of workers: as many sockets are enough.
    pub workers: NonZeroUsize,
}

/// One socket for each destination would leave connections too little.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "listeners of {destinations} destinations (service, protocol, family), those that a reload replaces included, take a \
     descriptor each and leave connections too few of {descriptors}, the hard limit of open files; raise it (LimitNOFILE={needed} in the unit, or ulimit -Hn), or make one \
     service of those that differ in their port alone: with a range of ports, and an origin without a port or with a \
     range as long"
)]
pub struct TooFewDescriptors {
    /// The number of destinations that there would be.
    pub destinations: usize,
    /// The number of descriptors that the process may have.
    pub descriptors: usize,
    /// The number that would be enough.
    pub needed: usize,
}

impl ListenerRoom {
    /// The number of sockets that each of `groups` new listeners gets: one for each worker, or fewer where that would
    /// take more than half of the descriptors.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn sockets_of_each(&self, groups: usize) -> Result<NonZeroUsize, TooFewDescriptors> {
        let free = (self.descriptors / SHARE).saturating_sub(self.held);
        let each = free / groups.max(1);
        if let Some(each) = NonZeroUsize::new(each) {
            return Ok(each.min(self.workers));
        }
        let taken = self.held.saturating_add(groups);
        let most = self.descriptors - self.descriptors / LEAST_FOR_CONNECTIONS;
        if taken <= most {
            return Ok(NonZeroUsize::MIN);
        }
        let needed = taken.saturating_mul(LEAST_FOR_CONNECTIONS).div_ceil(LEAST_FOR_CONNECTIONS - 1);
        Err(TooFewDescriptors { destinations: taken, descriptors: self.descriptors, needed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(descriptors: usize, held: usize, workers: usize, groups: usize) -> Option<usize> {
        let room = ListenerRoom { descriptors, held, workers: NonZeroUsize::new(workers).unwrap() };
        room.sockets_of_each(groups).ok().map(NonZeroUsize::get)
    }

    #[test]
    fn each_worker_has_a_socket_of_each_as_long_as_half_of_the_descriptors_are_enough() {
        assert_eq!(each(20_000, 0, 2, 5_000), Some(2));
        assert_eq!(each(20_000, 0, 2, 5_001), Some(1));
        assert_eq!(each(20_000, 0, 8, 2_000), Some(5));
        assert_eq!(each(1024, 0, 4, 3), Some(4));
        assert_eq!(each(1_048_576, 0, 8, 65_536), Some(8));
        assert_eq!(each(20_000, 9_000, 2, 500), Some(2));
        assert_eq!(each(20_000, 9_000, 2, 501), Some(1));
        assert_eq!(each(20_000, 0, 2, 0), Some(2));
    }

    #[test]
    fn one_for_all_is_the_least_and_a_quarter_is_for_connections() {
        assert_eq!(each(20_000, 0, 2, 15_000), Some(1));
        assert_eq!(each(20_000, 0, 2, 15_001), None);
        assert_eq!(each(20_000, 14_000, 2, 1_000), Some(1));
        assert_eq!(each(20_000, 14_000, 2, 1_001), None);
    }

    #[test]
    fn as_many_as_are_said_to_be_needed_are_enough() {
        for groups in [7, 4_000, 15_001, 65_536] {
            let room = |descriptors| ListenerRoom { descriptors, held: 0, workers: NonZeroUsize::MIN };
            let error = room(groups).sockets_of_each(groups).unwrap_err();
            assert!(room(error.needed).sockets_of_each(groups).is_ok(), "{error}");
            assert!(room(error.needed - 2).sockets_of_each(groups).is_err(), "{error}");
        }
        let error =
            ListenerRoom { descriptors: 8_192, held: 0, workers: NonZeroUsize::MIN }.sockets_of_each(8_000);
        assert_eq!(
            error.unwrap_err().to_string(),
            "listeners of 8000 destinations (service, protocol, family), those that a reload replaces included, take a \
             descriptor each and leave connections too few of 8192, the hard limit of open files; raise it (LimitNOFILE=10667 in the unit, or ulimit -Hn), or make one service of those \
             that differ in their port alone: with a range of ports, and an origin without a port or with a range as long"
        );
    }
}
