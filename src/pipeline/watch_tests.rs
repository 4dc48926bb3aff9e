use super::*;

/// A storm on one side does not silence the other.
#[test]
fn events_and_walks_take_turns() {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut turns = Turns::Events;
    let mut came = Vec::new();
    for _ in 0..4 {
        let walks = |_: &mut Context<'_>| Poll::Ready(Came::Walk(Step::Named));
        came.push(turns.poll(&mut context, |_| Poll::Ready(Came::Events), walks));
    }
    let (event, walk) = (|| Poll::Ready(Came::Events), || Poll::Ready(Came::Walk(Step::Named)));
    assert_eq!(came, [event(), walk(), event(), walk()]);
    // Whose turn it is does not wait for nothing.
    for _ in 0..3 {
        assert_eq!(turns.poll(&mut context, |_| Poll::Pending, |_| walk()), walk());
        assert_eq!(turns.poll(&mut context, |_| event(), |_| Poll::Pending), event());
    }
    assert_eq!(turns.poll(&mut context, |_| Poll::Pending, |_| Poll::Pending), Poll::Pending);
}
