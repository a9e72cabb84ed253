"""The mathematics of the evidence: residuals without signs, then signs against residuals, then a p-value."""
