"""What each number of an evaluation is and whose method it follows."""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, Mapping[str, str]] = {
    "cross_validation": {
        "says": "Repeated nested cross-validation by patient: tuning happens again inside every "
        "training fold; exact duplicates share a fold. An estimate is the mean over the repeats.",
        "source": "Varma S, Simon R. BMC Bioinformatics 2006;7:91.",
    },
    "tuning": {
        "says": "Where at least three hospitals train, settings and the set of inputs are chosen "
        "by leaving one training hospital out after the other, each weighing the same; otherwise "
        "by inner folds of patients on all inputs.",
        "source": "Steyerberg EW, Harrell FE. J Clin Epidemiol 2016;69:245-247.",
    },
    "intervals": {
        "says": "95 % percentile intervals from 500 resamples of patients within hospitals, the "
        "predictions held fixed; they do not hold what refitting or another hospital would change.",
        "source": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.",
    },
    "delong": {
        "says": "The second interval of the AUC, from its asymptotic variance.",
        "source": "DeLong ER, DeLong DM, Clarke-Pearson DL. Biometrics 1988;44:837-845.",
    },
    "operating_point": {
        "says": "Sensitivity, specificity and predictive values with Wilson intervals, likelihood "
        "ratios with log intervals, at the threshold 1 / (1 + harm ratio) declared beforehand.",
        "source": "Wilson EB. J Am Stat Assoc 1927;22:209-212. Simel DL, Samsa GP, Matchar DB. "
        "J Clin Epidemiol 1991;44:763-770.",
    },
    "calibration": {
        "says": "Calibration in the large, intercept and slope by logistic recalibration; a lowess "
        "curve without robustness iterations; ICI, E50, E90 and Emax are distances from it.",
        "source": "Van Calster B et al. BMC Med 2019;17:230. Austin PC, Steyerberg EW. Stat Med "
        "2019;38:4051-4065.",
    },
    "net_benefit": {
        "says": "True positives minus false positives weighed by the odds of the threshold, per "
        "patient, against treating everybody and nobody.",
        "source": "Vickers AJ, Elkin EB. Med Decis Making 2006;26:565-574.",
    },
    "differences": {
        "says": "Candidate minus plain logistic regression on the same folds and resamples.",
        "source": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.",
    },
    "leave_one_hospital_out": {
        "says": "Internal-external validation: a hospital is scored by models that never saw one "
        "of its patients or labels.",
        "source": "Steyerberg EW, Harrell FE. J Clin Epidemiol 2016;69:245-247.",
    },
    "pooling": {
        "says": "Random effects over held-out hospitals by restricted maximum likelihood on the "
        "logit (AUC), log (observed over expected) and natural (slope) scale; Hartung-Knapp "
        "interval of the mean; 95 % prediction interval for a new hospital with k - 2 degrees of "
        "freedom. With four hospitals it is wide and itself uncertain.",
        "source": "Debray TPA et al. Stat Methods Med Res 2019;28:2768-2786. IntHout J, Ioannidis "
        "JPA, Borm GF. BMC Med Res Methodol 2014;14:25. Higgins JPT, Thompson SG, Spiegelhalter "
        "DJ. J R Stat Soc A 2009;172:137-159.",
    },
    "ladder": {
        "says": "Local patients are drawn without replacement, mend intercept, intercept and "
        "slope, or refit the logistic regression on themselves alone; the hospital's other "
        "patients judge. A closed test at 5 % picks among nothing, intercept, and both. The bar is "
        "the prevalence estimated from the same patients. Ranges hold 95 % of the draws.",
        "source": "Vergouwe Y et al. Stat Med 2017;36:4529-4539. Steyerberg EW et al. Stat Med "
        "2004;23:2567-2586.",
    },
    "optimism": {
        "says": "The whole procedure is repeated in bootstrap samples; optimism is what a "
        "statistic loses from the sample to the original patients.",
        "source": "Harrell FE, Lee KL, Mark DB. Stat Med 1996;15:361-387. Noma H et al. Stat Med "
        "2021;40:5691-5701.",
    },
    "instability": {
        "says": "Mean absolute difference of a patient's probability between bootstrap models and "
        "the model; the share of bootstrap models that change the decision.",
        "source": "Riley RD, Collins GS. Biom J 2023;65:2200302.",
    },
    "sample_size": {
        "says": "Patients needed for a shrinkage of 0.9, an optimism of 0.05 in Nagelkerke R2 and "
        "a prevalence to within 0.05, for the parameters that were estimated.",
        "source": "Riley RD et al. BMJ 2020;368:m441.",
    },
    "missing": {
        "says": "Ways to live with missing inputs, each tuned and scored by leaving one hospital "
        "out, all patients, judged inside hospitals. Missing indicators may recognise the hospital "
        "from what it does not record; the panels cannot.",
        "source": "Sperrin M et al. Missing data should be handled differently for prediction than "
        "for description or causal explanation. J Clin Epidemiol 2020;125:183-187.",
    },
    "groups": {
        "says": "Groups of at least 20 patients with and 20 without disease, against all other "
        "patients: AUC and calibration by bootstrap within hospitals, sensitivity by Newcombe's "
        "interval and the score test; p values adjusted by Holm over all comparisons.",
        "source": "Newcombe RG. Stat Med 1998;17:873-890. Holm S. Scand J Stat 1979;6:65-70.",
    },
}
