"""Files of rollouts in, an answer out: is a reward a good teacher for the policy that drew them?"""
