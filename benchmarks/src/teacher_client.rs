//! Images a second that the binary HTTP client sends to a teacher that computes nothing.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::machine::Machine;
use crate::places::Places;
use crate::process::run as run_program;
use crate::statistics::Spread;
use crate::table::{Table, grouped, verdict};

const REPETITIONS: usize = 5;
/// Images of 28x28 a second and core.
const GOAL: f64 = 20_000.0;

/// What the example prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rate {
    /// Images answered a second of the client's processor time.
    images_per_second_per_core: f64,
    /// Images a request.
    batch: u32,
}

/// Measures the client and publishes the table.
pub(crate) fn run(places: &Places) -> anyhow::Result<()> {
    let mut rates: Vec<Rate> = vec![];
    for _ in 0..REPETITIONS {
        rates.push(run_program(&mut places.example("stillhouse-teacher", "client_rate")?)?.json()?);
    }
    let data = json!({ "machine": Machine::this(), "runs": rates });
    places.publish("teacher-client", &table(&rates), &data)
}

fn table(rates: &[Rate]) -> Table {
    let per_core = Spread::of(rates.iter().map(|rate| rate.images_per_second_per_core)).expect("at least one run");
    let header = ["client", "images a request", "images/s a core", "smallest", "largest"];
    let mut table = Table::new(
        "Images of 28x28 through the binary HTTP client, to a teacher that computes nothing",
        header,
    );
    let figures = [per_core.median, per_core.min, per_core.max].map(grouped);
    let batch = rates.first().map_or(0, |rate| rate.batch);
    let name = ["stillhouse-teacher".to_owned(), grouped(batch.into())];
    table.row(name.into_iter().chain(figures));
    table.note(verdict(
        &format!("{} images a second and core", grouped(GOAL)),
        per_core.median >= GOAL,
    ));
    table.note(format!(
        "Median of {REPETITIONS} runs of the example `client_rate`. Counted is the client's own processor time; the server \
         runs beside it."
    ));
    table.note(Machine::this().line());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_below_the_goal_is_a_miss() {
        let of = |rate| Rate {
            images_per_second_per_core: rate,
            batch: 64,
        };
        assert!(
            table(&[of(19_000.0), of(21_000.0), of(25_000.0)])
                .to_string()
                .contains("core: reached.")
        );
        assert!(table(&[of(19_000.0)]).to_string().contains("**missed**"));
    }
}
