//! A planted bug is caught. If this fails, the simulator is blind, and what it finds clean is worth
//! nothing.

use simulator::mutants::{CANARIES, hunt};
use simulator::run::keep_panics_quiet;

#[test]
fn the_canary_is_caught() {
    keep_panics_quiet();
    for (mutant, engine) in CANARIES {
        let catch = hunt(*mutant, *engine, 500, 1);
        assert!(
            catch.is_some(),
            "{} was not caught in {engine}",
            mutant.name()
        );
    }
}
