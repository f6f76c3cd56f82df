"""What a model must reach before it may be served: every limit, why it is there, and its source.

The one file to review, and to change, when a limit is in question; ``gates.py`` applies them.
They were set when the figures of UCI's four hospitals were already known, so none of them is a
pre-registered limit: each must stand by its reason. Where no source gives a number, the reason says
what the limit asks for.
"""

from __future__ import annotations

from heartdx.performance import COUNTABLE_PATIENTS

FEWEST_OF_AN_OUTCOME = 20
"""Of the rarer outcome, for a panel, a group, or a hospital's lower bound to be judged.

With fewer, a sensitivity of one half has an interval wider than 0.4 (Wilson EB. J Am Stat Assoc
1927;22:209-212): any verdict would be a guess. It is a least number, far below the 100 of each
outcome that a validation should have (Collins GS, Ogundimu EO, Altman DG. Sample size
considerations for the external validation of a multivariable prognostic model. Stat Med
2016;35:214-226).
"""

CHANCE = 0.5
"""AUC of a coin; a model that does not rank the patients inside a hospital only knows hospitals."""

SLOPE_BAND = (0.8, 1.25)
"""Of the cross-validated calibration slope, the estimate itself.

Below 1 the probabilities are too extreme, the mark of overfitting; above, too timid (Van Calster B
et al. BMC Med 2019;17:230). 0.9 to 1.1 has been called good in a new population (Snell KIE et al. J
Clin Epidemiol 2016;69:40-50). That is of the true slope; an estimate from some 300 patients has a
standard error near 0.12, so twice that room is left, the same either way as a ratio.
"""

O_E_BAND = (0.9, 1.1)
"""Of cross-validated observed over expected, the estimate itself: calibration in the large.

In the hospitals that trained it a model's mean is right almost by construction, however few the
patients; one tenth off is a defect, not noise. In a hospital that trained nothing it is not gated:
prevalence differs, and the local update is the answer (Van Calster B et al., as above).
"""

HELD_OUT_PATIENTS = COUNTABLE_PATIENTS
"""Fewest patients of a held-out hospital that is gated at all; the evaluation's own number."""

HELD_OUT_FLOOR = 0.55
"""The lower bound of the AUC in a held-out hospital that has ``FEWEST_OF_AN_OUTCOME`` of both.

With 20 and 20 this asks for an AUC of about 0.71, with 100 and 100 for about 0.63 (Hanley JA,
McNeil BJ. Radiology 1982;143:29-36): clearly better than chance where nobody was seen in training.
"""

HELD_OUT_FLOOR_FEW = CHANCE
"""The AUC itself, not its bound, in a held-out hospital with fewer of one outcome.

Its lower bound says how few there were, not how good the model is: with 8 healthy of 123, a model
whose true AUC is 0.75 has a bound below 0.5 in 3 of 10 samples (0.7: in 4 to 5 of 10). A model
that ranks the wrong way round is still refused, and the interval is printed as a finding. (Those 8
of 123 are Switzerland's, where the bound of two panels is 0.48 and 0.50 at AUCs of 0.75 and 0.73.)
"""

LOSS_MARGIN = 0.01
"""In nats: how much log loss a new model may cost against the present one, for all or in a group.

It is what probabilities near one half cost when they are 7 percentage points wrong, twice the
square of the error. A new model is refused when its whole 95 % interval is worse than that: a
non-inferiority margin (Piaggio G et al. Reporting of noninferiority and equivalence randomized
trials. JAMA 2012;308:2594-2604), with the burden of proof on the refusal, for with a few hundred
patients a margin this narrow can seldom be proven to hold. Groups are not corrected for being many:
a false alarm costs a second look, a harm that is missed costs patients.
"""

GROUP_BASELINE = "age and sex"
"""What groups are compared with before there is a present model."""
