"""``valuestream segments``: prints private counts of users by churn band."""
