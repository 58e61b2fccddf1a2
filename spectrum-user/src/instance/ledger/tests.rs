//! Tests of courses, against a kernel that takes what it is given until it does not.

use proptest::collection::btree_set;
use proptest::prelude::*;

use super::*;
use crate::model::{Destination, DestinationId, Family, Protocol, ServiceName};

const DRAIN: Duration = Duration::from_secs(10);

fn destination(revision: u32) -> Destination {
    Destination { service: ServiceName::default(), revision, family: Family::Ipv4, protocol: Protocol::Tcp }
}

fn resource() -> impl Strategy<Value = Resource> {
    let route = |n: u8| Resource::Route(format!("10.0.{n}.0/24").parse().unwrap());
    prop_oneof![
        Just(Resource::Claim),
        Just(Resource::Control),
        Just(Resource::Attachment),
        (0..6u8).prop_map(route),
        Just(Resource::Reply(Family::Ipv6)),
        Just(Resource::Mark),
        Just(Resource::Admin),
        Just(Resource::Connections(ServiceName::default(), Family::Ipv4, Protocol::Tcp)),
        Just(Resource::Workers),
        (0..4u32).prop_map(|revision| Resource::Listener(destination(revision))),
        (0..4u32).prop_map(|id| Resource::Registration(DestinationId(id))),
        (0..4u32).prop_map(|revision| Resource::Serving(destination(revision))),
        Just(Resource::Exemption),
        (0..3u32).prop_map(Resource::Rules),
    ]
}

fn some() -> impl Strategy<Value = BTreeSet<Resource>> {
    btree_set(resource(), 0..16)
}

/// The things that are there, and the raising that will fail.
#[derive(Debug, Default)]
struct Kernel {
    has: BTreeSet<Resource>,
    fails_at: Option<usize>,
    raised: Vec<Resource>,
    lowered: Vec<Resource>,
}

impl Kernel {
    /// Takes the steps of `course`; whether all could be raised.
    fn take(&mut self, mut course: Course, ledger: &mut Ledger) -> bool {
        let mut is_done = true;
        while let Some(step) = course.next(ledger) {
            match step {
                Act::Raise(step) => {
                    assert!(step.iter().all(|resource| resource.kind() == step[0].kind()));
                    for resource in step {
                        if self.fails_at == Some(self.raised.len()) {
                            course.failed();
                            is_done = false;
                            break;
                        }
                        self.raised.push(resource.clone());
                        self.has.insert(resource);
                    }
                }
                Act::Lower(step) => {
                    assert!(step.iter().all(|resource| resource.kind() == step[0].kind()));
                    for resource in step {
                        self.has.remove(&resource);
                        self.lowered.push(resource);
                    }
                }
            }
            // The ledger covers whatever is there.
            assert!(self.has.iter().all(|resource| ledger.have.contains_key(resource)));
        }
        is_done
    }
}

/// An instance that has `have`, some of it retired on the way there from `before`.
fn lived(before: &BTreeSet<Resource>, have: &BTreeSet<Resource>, now: Instant) -> (Ledger, Kernel) {
    let (mut ledger, mut kernel) = (Ledger::default(), Kernel::default());
    for want in [before, have] {
        let course = ledger.course_to(want, Farewell::Drain(DRAIN), now);
        assert!(kernel.take(course, &mut ledger));
    }
    let has = kernel.has;
    (ledger, Kernel { has, ..Kernel::default() })
}

fn is_ordered(resources: &[Resource]) -> bool {
    resources.is_sorted()
}

proptest! {
    #[test]
    fn a_course_leads_to_what_is_wanted_in_order(before in some(), have in some(), want in some()) {
        let now = Instant::now();
        let (mut ledger, mut kernel) = lived(&before, &have, now);
        let course = ledger.course_to(&want, Farewell::Drain(DRAIN), now);
        prop_assert!(kernel.take(course, &mut ledger));
        kernel.lowered.reverse();
        prop_assert!(is_ordered(&kernel.raised) && is_ordered(&kernel.lowered));
        // Nothing wanted goes, and what is not wanted goes at its time.
        prop_assert!(want.iter().all(|resource| ledger.have[resource].is_none()));
        let left: Vec<_> = ledger.have().filter(|(resource, _)| !want.contains(resource)).collect();
        prop_assert!(left.iter().all(|(resource, due)| *due == Some(now + resource.patience(DRAIN))));
        let mut moments = 0;
        while let Some(due) = ledger.next_due() {
            let course = ledger.course_of_due(due);
            prop_assert!(kernel.take(course, &mut ledger));
            moments += 1;
        }
        prop_assert!(moments <= 2);
        prop_assert_eq!(&kernel.has, &want);
    }

    #[test]
    fn a_course_that_fails_at_any_step_leads_back(
        before in some(), have in some(), want in some(), at in 0..16usize, at_once: bool,
    ) {
        let now = Instant::now();
        let (mut ledger, mut kernel) = lived(&before, &have, now);
        let (had, has) = (ledger.have.clone(), kernel.has.clone());
        kernel.fails_at = Some(at);
        let farewell = if at_once { Farewell::AtOnce } else { Farewell::Drain(DRAIN) };
        let course = ledger.course_to(&want, farewell, now);
        let is_done = kernel.take(course, &mut ledger);
        prop_assert_eq!(is_done, kernel.raised.len() <= at && want.iter().filter(|one| !had.contains_key(one)).count() <= at);
        if !is_done {
            prop_assert_eq!(&ledger.have, &had);
            prop_assert_eq!(&kernel.has, &has);
            kernel.lowered.reverse();
            prop_assert!(is_ordered(&kernel.raised) && is_ordered(&kernel.lowered));
        }
    }

    #[test]
    fn a_repair_that_fails_keeps_what_it_put_back(have in some(), missing in some(), at in 0..16usize) {
        let now = Instant::now();
        let (mut ledger, mut kernel) = lived(&BTreeSet::new(), &have, now);
        let had = ledger.have.clone();
        let missing: Vec<Resource> = missing.intersection(&have).cloned().collect();
        for resource in &missing {
            kernel.has.remove(resource);
        }
        kernel.fails_at = Some(at);
        let is_done = kernel.take(Ledger::course_back(&missing), &mut ledger);
        prop_assert_eq!(is_done, missing.len() <= at);
        prop_assert_eq!(&ledger.have, &had);
        prop_assert_eq!(&kernel.raised, &missing[..missing.len().min(at)]);
        prop_assert!(kernel.lowered.is_empty());
    }

    #[test]
    fn a_stop_leaves_nothing(before in some(), have in some()) {
        let now = Instant::now();
        let (mut ledger, mut kernel) = lived(&before, &have, now);
        let course = ledger.course_to(&BTreeSet::new(), Farewell::AtOnce, now);
        prop_assert!(kernel.take(course, &mut ledger));
        prop_assert!(kernel.has.is_empty() && ledger.have.is_empty() && kernel.raised.is_empty());
    }
}

#[test]
fn traffic_goes_off_first_and_the_claim_last() {
    let all = [Resource::Claim, Resource::Attachment, Resource::Workers, Resource::Rules(0)];
    let (mut ledger, mut kernel) = lived(&BTreeSet::new(), &all.clone().into(), Instant::now());
    let course = ledger.course_to(&BTreeSet::new(), Farewell::AtOnce, Instant::now());
    kernel.take(course, &mut ledger);
    kernel.lowered.reverse();
    assert_eq!(kernel.lowered, all);
}

#[test]
fn what_comes_back_before_it_went_stays() {
    let now = Instant::now();
    let route = BTreeSet::from([Resource::Route("10.0.0.0/24".parse().unwrap())]);
    let (mut ledger, mut kernel) = lived(&route, &BTreeSet::new(), now);
    assert_eq!(ledger.next_due(), Some(now + DRAIN));
    let course = ledger.course_to(&route, Farewell::Drain(DRAIN), now);
    assert_eq!(course.to_raise().count(), 0);
    kernel.take(course, &mut ledger);
    assert_eq!(ledger.next_due(), None);
    assert_eq!(kernel.has, route);
}
