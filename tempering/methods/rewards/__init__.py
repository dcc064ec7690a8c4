"""What is rewarded: scores of answers, one file each. A reward is a value that is called with prompts and answers; so is an ensemble of rewards."""
