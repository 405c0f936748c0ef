//! Chains, as their scripts see them.

use crate::world::World;

#[test]
fn a_schedule_starts_a_chain_that_passes_output() {
    let mut world = World::new();
    world.batch("extract", "cron = '* * * * * *'", "echo one; echo two");
    world.batch("transform", "after = 'extract'\nuse_previous_output = true", "tr a-z A-Z; cat $BATCHD_INPUT | wc -l");
    let done = world.pipe("done");
    world.batch("report", "after = 'transform'\nuse_previous_output = true", "cat; echo $BATCHD_RUN > $W/done");
    world.start();
    assert_eq!(done.hear(), "report.1");
    let end = world.end("report.1");
    assert_eq!(world.stdout("report.1"), "ONE\nTWO\n2\n");
    assert_eq!((end["outcome"].as_str(), end["chain"].as_str()), (Some("succeeded"), Some("extract.1")));
}
