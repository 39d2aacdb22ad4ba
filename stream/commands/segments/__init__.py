"""``valuestream segments``: private counts of users by churn band."""
