//! Judges by themselves, over tables that are made by hand. That tables say what configurations do is tested where they are compiled.

use spectrum_common::{Bucket4, SourceGate, Step};

use super::*;

fn name(name: &str) -> ServiceName {
    name.parse().unwrap()
}

/// A judge of the service `web` that denies 10.0.0.0/8 of IPv4, at `gate`, and by what was said at run time.
fn judge(gate: SourceGate, said: Option<(u32, Value)>, judges_all: bool) -> SourceJudge {
    let step = Step { mask_hi: u64::MAX << 56, first_bucket: 3, buckets: 1, ..Step::default() };
    let mut bucket = Bucket4::default();
    (bucket.keys[0], bucket.values[0]) = (10 << 24, Value::source(8, true));
    let gate = SourceGate { lists: [2, 0], run_time: [0, 1], ..gate };
    let first = Step { has_rates: (gate.cost > 0).into(), ..Step::default() };
    let nodes = vec![first.into(), gate.into(), step.into(), bucket.into()];
    SourceJudge::new([(name("web"), Family::Ipv4, 1)], nodes, run_time(said), judges_all)
}

/// The list of what was said of one address at run time.
fn run_time(said: Option<(u32, Value)>) -> Vec<Node> {
    let host = Step { mask_hi: u64::MAX, first_bucket: 2, buckets: 1, ..Step::default() };
    let mut bucket = Bucket4::default();
    if let Some((address, value)) = said {
        (bucket.keys[0], bucket.values[0]) = (address, value);
    }
    vec![Node::default(), host.into(), bucket.into()]
}

fn asking<'a>(service: &'a ServiceName, client: &str, is_named: bool) -> Applicant<'a> {
    Applicant { service, protocol: Protocol::Tcp, client: client.parse().unwrap(), is_named }
}

const HOST: u32 = 10 << 24 | 1 << 16 | 2 << 8 | 3;
const DENIED: Option<TurnedAway> = Some(TurnedAway { limit: Limit::Policy, is_told: true });

/// What turns away a named client of `web`.
fn told(view: &JudgeView, client: &str) -> Option<TurnedAway> {
    view.turns_away(&asking(&name("web"), client, true))
}

fn settled(judge: SourceJudge) -> (CurrentJudges, JudgeView) {
    let current = CurrentJudges::default();
    let view = JudgeView::new(current.clone());
    assert_eq!(told(&view, "10.1.2.3"), None, "nobody judges yet");
    current.change(JudgeChange::Prepare(judge));
    current.change(JudgeChange::Settle);
    (current, view)
}

#[test]
fn clients_are_judged_by_what_their_service_says_and_those_of_others_are_not() {
    let (current, view) = settled(judge(SourceGate::default(), None, false));
    assert_eq!(told(&view, "10.1.2.3"), DENIED);
    assert_eq!((told(&view, "11.1.2.3"), told(&view, "2001:db8::1")), (None, None));
    assert_eq!(view.turns_away(&asking(&name("open"), "10.1.2.3", true)), None);
    let silent = SourceGate { on_deny: SourceGate::SILENCE, ..SourceGate::default() };
    current.change(JudgeChange::Prepare(judge(silent, None, false)));
    current.change(JudgeChange::Settle);
    assert_eq!(told(&view, "10.1.2.3"), Some(TurnedAway { limit: Limit::Policy, is_told: false }));
    current.change(JudgeChange::Prepare(SourceJudge::default()));
    current.change(JudgeChange::Settle);
    assert_eq!(told(&view, "10.1.2.3"), None);
}

#[test]
fn whom_rules_have_judged_is_judged_again_only_where_a_proxy_names_it() {
    for judges_all in [false, true] {
        let (_current, view) = settled(judge(SourceGate::default(), None, judges_all));
        let turned_away = view.turns_away(&asking(&name("web"), "10.1.2.3", false));
        assert_eq!(turned_away, if judges_all { DENIED } else { None });
    }
}

#[test]
fn what_is_said_at_run_time_is_amended_and_the_rest_stays() {
    let (current, view) = settled(judge(SourceGate::default(), None, false));
    let before = view.version();
    current.change(JudgeChange::Amend(run_time(Some((HOST, Value::source(32, false))))));
    assert_ne!(view.version(), before, "whom it let in is judged again");
    assert_eq!((told(&view, "10.1.2.3"), told(&view, "10.1.2.4")), (None, DENIED));
    current.change(JudgeChange::Amend(run_time(None)));
    assert_eq!(told(&view, "10.1.2.3"), DENIED);
}

#[test]
fn until_a_change_is_settled_both_must_let_a_client_in() {
    let other = |is_denied| judge(SourceGate::default(), Some((HOST, Value::source(32, is_denied))), false);
    let eleven = Some((11 << 24, Value::source(32, true)));
    let (current, view) = settled(judge(SourceGate::default(), eleven, false));
    assert_eq!((told(&view, "10.1.2.3"), told(&view, "11.0.0.0")), (DENIED, DENIED));
    current.change(JudgeChange::Prepare(other(false)));
    current.change(JudgeChange::Overlap);
    let both = (told(&view, "10.1.2.3"), told(&view, "11.0.0.0"));
    assert_eq!(both, (DENIED, DENIED), "the one before denies them");
    current.change(JudgeChange::Forget);
    assert_eq!(told(&view, "11.0.0.0"), DENIED);
    current.change(JudgeChange::Prepare(other(false)));
    current.change(JudgeChange::Settle);
    assert_eq!((told(&view, "10.1.2.3"), told(&view, "11.0.0.0")), (None, None));
    current.change(JudgeChange::Prepare(other(true)));
    assert_eq!(told(&view, "10.1.2.3"), None, "what is prepared does not hold yet");
    current.change(JudgeChange::Overlap);
    assert_eq!(told(&view, "10.1.2.3"), DENIED, "the one after denies it");
    current.change(JudgeChange::Settle);
    current.change(JudgeChange::Settle);
    assert_eq!(told(&view, "10.1.2.3"), DENIED, "there is nothing to settle");
}

#[test]
fn who_comes_too_often_is_turned_away_by_all_workers_together_and_over_changes() {
    let (cost, window) = (1 << 30, 1 << 31);
    let gate = SourceGate { mask_hi: u64::MAX << 32, rate: 7, cost, window, ..SourceGate::default() };
    let (current, view) = settled(judge(gate, None, true));
    let other = JudgeView::new(current.clone());
    assert!(view.version() == other.version() && view.has_rates() && other.has_rates());
    let rated = Some(TurnedAway { limit: Limit::PolicyRate, is_told: true });
    for (view, expected) in [(&view, None), (&other, None), (&view, None), (&other, rated), (&view, rated)] {
        assert_eq!(told(view, "11.0.0.1"), expected);
    }
    // By the other protocol, from another source, and who is denied, who is not counted.
    let datagram = Applicant { protocol: Protocol::Udp, ..asking(&name("web"), "11.0.0.1", false) }.protocol;
    let web = name("web");
    let of = |client| Applicant { protocol: datagram, ..asking(&web, client, false) };
    assert_eq!(view.turns_away(&of("11.0.0.1")), None);
    assert_eq!(told(&view, "11.0.0.2"), None);
    assert_eq!(told(&view, "10.0.0.1"), DENIED);
    // Where two judge each is counted once, and afterwards by the same accounts.
    current.change(JudgeChange::Prepare(judge(gate, None, true)));
    current.change(JudgeChange::Overlap);
    for expected in [None, None, None, rated] {
        assert_eq!(told(&view, "11.0.0.3"), expected);
    }
    current.change(JudgeChange::Settle);
    assert_eq!((told(&view, "11.0.0.1"), told(&view, "11.0.0.3")), (rated, rated));
}
