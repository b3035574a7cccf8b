"""The same model and engine behind other servers, each as its documentation recommends, and a server of nothing."""
